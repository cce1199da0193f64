"""The quality card as one HTML page: no script, nothing from outside, light and dark."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING

from hlrp.laq.card.page_style import CSS
from hlrp.laq.card.pictures import Example, SourcePictures, data_uri

if TYPE_CHECKING:
    from torch import Tensor

    from hlrp.laq.card.report import Measured, Report, SourceReport

_MARK = {True: ("pass", "passed"), False: ("fail", "not passed"), None: ("open", "not decided")}
_HEADLINE = {
    True: "The gate is passed: these codes are worth training on.",
    False: "The gate is not passed.",
    None: "The gate is not decided: something could not be measured.",
}
_MAX_BARS = 64
_CHART = (300, 84)


def render(report: "Report") -> str:
    """The whole page."""
    name = (report.run or report.model).name
    parts = [
        _header(report, name),
        _verdict(report),
        *(_source(report, source) for source in report.sources),
        _provenance(report),
        _reading(),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Quality card: {escape(name)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(report: "Report", name: str) -> str:
    config = report.laq.config
    facts = [
        f"{config.quantizer} quantizer",
        f"K = {config.codebook_size} codes at S = {config.code_seq_len} positions",
        f"T = {config.num_frames} frames, {config.offset_seconds:g} s apart",
        f"{config.image_size[0]}×{config.image_size[1]} pixels",
        f"{report.laq.parameter_count() / 1e6:.2f} M parameters",
    ]
    manifest = report.laq.manifest
    if manifest is not None and manifest.step:
        facts.append(f"step {manifest.step:,}")
    return (
        '<header><p class="kind">Latent action quantizer · quality card</p>'
        f"<h1>{escape(name)}</h1><p>{escape(' · '.join(facts))}</p></header>"
    )


def _verdict(report: "Report") -> str:
    css, _ = _MARK[report.passed]
    several = len(report.sources) > 1
    rows = []
    for check in report.checks:
        mark_css, word = _MARK[check.passed]
        where = f'<span class="where">{escape(check.source)}</span> ' if several else ""
        rows.append(f'<li><span class="mark {mark_css}">{word}</span><span>{where}{escape(check.text)}</span></li>')
    return (
        f'<section class="verdict {css}" aria-labelledby="verdict"><h2 id="verdict">{_HEADLINE[report.passed]}</h2>'
        f"<ul>{''.join(rows)}</ul></section>"
    )


def _source(report: "Report", source: "SourceReport") -> str:
    held = source.held_out
    shown = ", ".join(map(str, held.episodes[:12])) + (", …" if len(held.episodes) > 12 else "")
    lead = (
        f"{source.windows:,} windows of {len(held.episodes)} episodes ({shown}), {held.why}. "
        f"{report.laq.config.offset_seconds:g} s are {source.offset} frames at {held.source.info.fps:g} per second."
    )
    if held.available > len(held.episodes):
        lead += f" {held.available} episodes could have been used; some were left out evenly to save time."
    parts = [
        f"<h2>{escape(held.name)}</h2><p>{escape(lead)}</p>",
        "<h3>Numbers</h3>",
        _numbers(source),
        "<h3>Use of the codes</h3>",
        _usage(source),
        "<h3>Reconstructions</h3>",
        _reconstructions(source.pictures),
    ]
    if source.pictures.rows:
        parts += ["<h3>One pair's codes on other frames</h3>", _transfers(source)]
    return f"<section>{''.join(parts)}</section>"


# ---- numbers


def _numbers(source: "SourceReport") -> str:
    rows = [
        _row(
            "PSNR on moving pixels, dB",
            source,
            lambda m: m.scores.psnr,
            "predicted from the pair's own codes",
            "{:.2f}",
        ),
        _row("… by copying the frame", source, lambda m: m.scores.psnr_copy, "what no model must fall below", "{:.2f}"),
        _row("gain over copying, dB", source, lambda m: m.scores.psnr_gain, "gate: at least +1", "{:+.2f}"),
        _row("permutation gap, dB", source, lambda m: m.scores.permutation_gap, "gate: more than 0", "{:+.2f}"),
    ]
    rows += _probe_rows(source)
    note = (
        ""
        if source.probe_absent is None
        else f"<p class=note>No probe of the actions: {escape(source.probe_absent)}.</p>"
    )
    moving = f"<p class=note>{source.laq.scores.moving_share:.1%} of the pixels move.</p>"
    head = ["", "this quantizer", f"{len(source.random)} random", "meaning"]
    return _table(head, rows) + moving + note + _dimensions(source)


def _probe_rows(source: "SourceReport") -> list[list[str]]:
    if source.laq.probes is None:
        return []
    named = {
        "codes": ("probe R² of the actions, codes alone", "gate: more than 0.1 over random"),
        "quantized": ("… code vectors", "linear in their values, not in one-hot codes"),
        "vectors": ("… before quantisation", "what quantisation costs"),
        "frames": ("… the frame alone", "an expert's action can be guessed from the scene"),
        "frames_codes": ("… frame and codes", ""),
    }
    rows = [_row(label, source, _r2(key), meaning, "{:.3f}") for key, (label, meaning) in named.items()]
    gain = _row("gained over the frame alone", source, _gain, "gate: more than 0.1", "{:+.3f}")
    return [*rows, gain]


def _r2(key: str) -> "Callable[[Measured], float]":
    return lambda m: m.probes[key].r2 if m.probes is not None else float("nan")


def _gain(measured: "Measured") -> float:
    return _r2("frames_codes")(measured) - _r2("frames")(measured)


def _row(
    label: str, source: "SourceReport", value: "Callable[[Measured], float]", meaning: str, form: str
) -> list[str]:
    others = [value(m) for m in source.random]
    random = _number(fmean(others), form) if others else "–"
    low, high = (_number(end(others), form) if others else "" for end in (min, max))
    if low != high:
        random += f' <span class="range">{low} … {high}</span>'
    return [
        escape(label),
        f"<strong>{_number(value(source.laq), form)}</strong>",
        random,
        f"<span class=where>{escape(meaning)}</span>",
    ]


def _number(value: float, form: str) -> str:
    if value != value:  # noqa: PLR0124 - true for nan alone
        return "–"
    text = form.format(value)
    # What rounds to nothing has no sign.
    return form.format(0.0) if float(text.rstrip("%")) == 0 else text.replace("-", "−")


def _dimensions(source: "SourceReport") -> str:
    """R2 of every action dimension, folded away."""
    if source.laq.probes is None:
        return ""
    columns = {"codes": "codes", "frames": "frame", "frames_codes": "frame and codes"}
    names = source.held_out.source.info.features["action"].get("names")
    width = len(source.laq.probes["codes"].r2_per_dim)
    labels = names if isinstance(names, list) and len(names) == width else [f"action {i}" for i in range(width)]
    rows = []
    for i, label in enumerate(labels):
        values = [source.laq.probes[key].r2_per_dim[i] for key in columns]
        rows.append([escape(str(label)), *(_number(float("nan") if v is None else v, "{:.3f}") for v in values)])
    table = _table(["summed action", *columns.values()], rows)
    return f"<details><summary>R² of every action dimension</summary>{table}</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


# ---- usage


def _usage(source: "SourceReport") -> str:
    size = source.laq.counts.shape[1]
    charts = "".join(_chart(source, i) for i in range(len(source.laq.counts)))
    order = "in the codebook's order" if size <= _MAX_BARS else "most used first"
    caption = f"Share of the pairs that use each code, {order}; the line is an even use (1/{size})."
    return f'<div class="charts">{charts}</div><p class="note">{caption}</p>'


def _chart(source: "SourceReport", position: int) -> str:
    counts, scores = source.laq.counts[position], source.laq.scores
    size = len(counts)
    share = (counts / counts.sum().clamp_min(1)).tolist()
    top = max(*share, 1.5 / size)
    width, height = _CHART
    if size <= _MAX_BARS:
        step = width / size
        gap = min(2.0, step * 0.25)
        marks = "".join(
            f'<g><title>code {i}: {s:.1%} of the pairs</title><rect class="hit" x="{i * step:.2f}" y="0" '
            f'width="{step:.2f}" height="{height}"/><rect class="bar" x="{i * step + gap / 2:.2f}" '
            f'y="{height * (1 - s / top):.2f}" width="{step - gap:.2f}" height="{height * s / top:.2f}"/></g>'
            for i, s in enumerate(share)
        )
    else:
        points = " ".join(
            f"{(i + 0.5) * width / size:.2f},{height * (1 - s / top):.2f}"
            for i, s in enumerate(sorted(share, reverse=True))
        )
        marks = f'<polygon class="bar" points="0,{height} {points} {width},{height}"/>'
    even = height * (1 - 1 / size / top)
    used, spread = scores.codes_used[position], scores.perplexity[position]
    random = fmean(m.scores.perplexity[position] for m in source.random) if source.random else float("nan")
    label = f"position {position}: {used} of {size} codes used, perplexity {spread:.1f}"
    return (
        f'<figure class="chart"><figcaption><strong>Position {position}</strong><br>{used} of {size} used · '
        f"perplexity {spread:.1f} <span class=range>(random {_number(random, '{:.1f}')})</span> · most frequent "
        f'{max(share):.0%}</figcaption><svg viewBox="0 -1 {width} {height + 2}" role="img" '
        f'aria-label="{label}">{marks}<line class="even" x1="0" x2="{width}" y1="{even:.2f}" y2="{even:.2f}"/>'
        f'<line class="axis" x1="0" x2="{width}" y1="{height}" y2="{height}"/></svg></figure>'
    )


# ---- pictures


def _image(picture: "Tensor", text: str) -> str:
    height, width = picture.shape[1:]
    return f'<img src="{data_uri(picture)}" width="{width}" height="{height}" alt="{escape(text)}">'


def _codes(codes: Sequence[int]) -> str:
    return '<span class="codes">' + " ".join(map(str, codes)) + "</span>"


def _reconstructions(pictures: SourcePictures) -> str:
    head = ["", "frame t", "frame t + o", "predicted", "other codes", "change", "… predicted", "… other codes"]
    rows = "".join(_example(example) for example in pictures.examples)
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    note = (
        "Pairs of well visible motion, one per episode where there are enough. “Predicted” sees frame t and the pair's "
        "codes; “other codes” sees frame t and the codes of another row: where it looks the same, codes do nothing. "
        "Changes are drawn around grey, at one scale per row."
    )
    return (
        f'<div class="wide"><table class="pictures"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="note">{note}</p>'
    )


def _example(example: Example) -> str:
    where = f"episode {example.episode}, frame {example.index}"
    cells = {
        "frame t": example.current,
        "frame t + o": example.following,
        "prediction": example.predicted,
        "prediction from other codes": example.permuted,
        "true change": example.true_change,
        "predicted change": example.predicted_change,
        "change predicted from other codes": example.permuted_change,
    }
    images = "".join(f"<td>{_image(picture, f'{where}: {text}')}</td>" for text, picture in cells.items())
    label = f"episode {example.episode}<br>index {example.index}<br>{_codes(example.codes)}"
    return f'<tr><th scope="row">{label}</th>{images}</tr>'


def _transfers(source: "SourceReport") -> str:
    pictures = source.pictures
    count = len(pictures.targets)
    targets = "".join(f"<td>{_image(t, f'target frame {i}')}</td>" for i, t in enumerate(pictures.targets))
    head = (
        '<thead><tr><th></th><th scope="col">frame t</th><th scope="col">frame t + o</th>'
        f'<th scope="col" colspan="{count}">other frames, and the same codes applied to them</th></tr></thead>'
    )
    rows = [f'<tr><th scope="row">as they are</th><td></td><td></td>{targets}</tr>']
    for row in pictures.rows:
        origin = row.origin
        name = f"codes {' '.join(map(str, origin.codes))}"
        label = f"episode {origin.episode}<br>{_codes(origin.codes)}"
        results = "".join(f"<td>{_image(p, f'{name} on target {i}')}</td>" for i, p in enumerate(row.predicted))
        change = "".join(f"<td>{_image(p, f'change by {name} on target {i}')}</td>" for i, p in enumerate(row.change))
        own = f"<td>{_image(origin.current, 'frame t')}</td><td>{_image(origin.following, 'frame t + o')}</td>"
        rows.append(f'<tr class="first"><th scope="row" rowspan="2">{label}</th>{own}{results}</tr>')
        rows.append(f"<tr><td>change</td><td>{_image(origin.true_change, 'true change')}</td>{change}</tr>")
    table = f'<div class="wide"><table class="pictures">{head}<tbody>{"".join(rows)}</tbody></table></div>'
    return table + _agreement(source)


def _agreement(source: "SourceReport") -> str:
    transfer = source.transfer
    if transfer is None:
        return ""
    rows = [
        [f"position {i}", *(_number(v, "{:.0%}") for v in values)]
        for i, values in enumerate(zip(transfer.agreement, transfer.own, transfer.chance, strict=True))
    ]
    note = (
        f"A code is applied to a frame and the result encoded again, over {transfer.pairs} pairs: how often does the "
        "same code come back? On the pair's own frame shows what can be hoped for."
    )
    return (
        _table(["", "on another pair's frame", "on its own frame", "by chance"], rows) + f'<p class="note">{note}</p>'
    )


# ---- provenance


def _provenance(report: "Report") -> str:
    manifest = report.laq.manifest
    assert manifest is not None
    trained = "; ".join(f"{s.repo_id} (fingerprint {s.fingerprint}, {s.fps:g} fps)" for s in manifest.sources)
    versions = report.to_json()["versions"]
    rows: list[tuple[str, str]] = [
        ("run", str(report.run or "–")),
        ("weights", str(report.model)),
        ("SHA-256 of the weights", manifest.weights_sha256),
        ("trained on", f"{trained or '–'}; cameras {', '.join(manifest.cameras) or '–'}"),
        *(
            (
                f"judged on {source.held_out.name}",
                f"{source.held_out.source.info.root.resolve()}, fingerprint "
                f"{source.held_out.source.info.fingerprint()}, camera {source.held_out.camera}",
            )
            for source in report.sources
        ),
        ("configuration", ", ".join(f"{k} {v}" for k, v in manifest.config.model_dump().items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("made", f"{report.created}, seed {report.seed}"),
    ]
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<section><h2>Provenance</h2><dl>{body}</dl></section>"


def _reading() -> str:
    return (
        "<section><h2>How to read this</h2><p>A pixel moves if one of its channels changes by more than 10 % between "
        "the two frames; PSNR counts those alone, since copying predicts the others. The permutation gap is what is "
        "lost when the decoder is given the codes of another pair: near 0, it ignores them. A probe is a ridge "
        "regression from features to the sum of the recorded actions between the two frames, scored on episodes that "
        "it was not fitted on; below 0 it is worse than the mean. Random quantizers have the same shape, untrained "
        "weights, and codes placed among their own differences. Where actions are absolute positions, their sum says "
        "where the robot is rather than how it moves: compare with the frame alone.</p></section>"
    )
