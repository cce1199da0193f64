"""What a diagnosis says: findings layer by layer, and the one that comes first. Plain data, nothing heavy imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Layer = Literal["data", "environment", "processors", "weights"]
LAYERS: tuple[Layer, ...] = ("data", "environment", "processors", "weights")
"""In the order in which a fault is handed on: what a layer gets wrong shows in those behind it too."""
SCHEMA_VERSION = 1
Status = Literal["pass", "fail", "open"]


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Args:
        layer: That it tells of.
        check: Its name.
        status: `open`: not judged, or odd without being a fault.
        line: In words, with the evidence.
        fault: Name of the fault for programs, where there is one.
        fix: What to do about it.
        evidence: The numbers, as JSON values.
    """

    layer: Layer
    check: str
    status: Status
    line: str
    fault: str | None = None
    fix: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The finding as `diagnosis.json` has it."""
        said = {"layer": self.layer, "check": self.check, "status": self.status, "line": self.line}
        return {**said, "fault": self.fault, "fix": self.fix, "evidence": dict(self.evidence)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Finding":
        """The finding that `to_json` gave (`KeyError` or `TypeError` if it is none)."""
        return cls(**{key: said[key] for key in ("layer", "check", "status", "line", "fault", "fix", "evidence")})


def passed(layer: Layer, check: str, line: str, **evidence: Any) -> Finding:
    """A check that found nothing wrong."""
    return Finding(layer, check, "pass", line, evidence=evidence)


def undecided(layer: Layer, check: str, line: str, **evidence: Any) -> Finding:
    """A check that could not be made, or that found something odd which may be right."""
    return Finding(layer, check, "open", line, evidence=evidence)


def failed(layer: Layer, check: str, fault: str, line: str, fix: str, **evidence: Any) -> Finding:
    """A check that names a fault."""
    return Finding(layer, check, "fail", line, fault, fix, evidence)


@dataclass(frozen=True)
class Trace:
    """One joint of a recorded episode: the recorded actions and the policy's, `[T]` each, in the data's units."""

    joint: str
    episode: int
    recorded: "NDArray[np.float32]"
    predicted: "NDArray[np.float32]"


@dataclass(frozen=True)
class Histogram:
    """Shares of one joint's actions by value.

    Args:
        joint: Its name.
        edges: Of the bins, ascending `[B + 1]`.
        shares: Whose actions to the shares of their bins `[B]`: `recorded`, `on recorded pictures`, `acting`.
    """

    joint: str
    edges: Sequence[float]
    shares: Mapping[str, Sequence[float]]

    def to_json(self) -> dict[str, Any]:
        """The histogram as `diagnosis.json` has it."""
        return {"joint": self.joint, "edges": list(self.edges), **{k: list(v) for k, v in self.shares.items()}}


@dataclass(frozen=True)
class Picture:
    """A picture uint8 `[H, W, 3]` of a camera, and what it is."""

    camera: str
    label: str
    pixels: "NDArray[np.uint8]"


@dataclass
class Diagnosis:
    """What was found.

    Args:
        folder: Where `diagnosis.json` lies.
        provenance: What was looked at: policy, environment, dataset, episodes, versions.
        findings: In the order of the layers.
        traces: Recorded and predicted actions of one episode, for the page.
        histograms: Of actions, joint by joint.
        pictures: First frames side by side, for the page.
        success: Successes and episodes of the policy's short evaluation; None: it did not act.
    """

    folder: Path
    provenance: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    success: tuple[int, int] | None = None

    def add(self, *findings: Finding) -> None:
        """Put findings behind those of their layer and of the layers before."""
        self.findings += findings
        self.findings.sort(key=lambda finding: LAYERS.index(finding.layer))

    @property
    def faults(self) -> list[Finding]:
        """The findings that name a fault, first things first."""
        return [finding for finding in self.findings if finding.fault is not None]

    @property
    def healthy(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def layer(self) -> Layer | None:
        """The layer that fails: the first one with a fault, since a fault shows in the layers behind it too."""
        return self.faults[0].layer if self.faults else None

    @property
    def verdict(self) -> str:
        """The one line."""
        if self.faults:
            first, *others = self.faults
            names = ", ".join(dict.fromkeys(finding.fault or "" for finding in others))
            then = f" (then look at: {names})" if names else ""
            return f"{'the ' if first.layer != 'data' else 'the recorded '}{_VERBS[first.layer]}: {first.line}{then}"
        judged = {finding.layer for finding in self.findings if finding.status == "pass"}
        layers = [layer for layer in LAYERS if layer in judged]
        text = f"healthy: {_listed(layers)} agree with each other" if len(layers) > 1 else "nothing failed"
        if "environment" not in judged:
            return f"{text}; no environment was looked at"
        if self.success is None:
            return text
        succeeded, episodes = self.success
        text += f", {succeeded} of {episodes} episodes succeeded"
        if 2 * succeeded < episodes:
            text += "; no layer is broken, the policy's skill is what lacks: more data, steps, or another policy"
        return text

    def to_json(self) -> dict[str, Any]:
        """The content of `diagnosis.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.provenance,
            "healthy": self.healthy,
            "layer": self.layer,
            "fault": self.faults[0].fault if self.faults else None,
            "verdict": self.verdict,
            "success": None
            if self.success is None
            else dict(zip(("successes", "episodes"), self.success, strict=True)),
            "findings": [finding.to_json() for finding in self.findings],
            "histograms": [histogram.to_json() for histogram in self.histograms],
        }


_VERBS = {
    "data": "data are wrong",
    "environment": "environment fails",
    "processors": "processors fail",
    "weights": "weights fail",
}


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
