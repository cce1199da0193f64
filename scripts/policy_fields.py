"""What the fields of LeRobot's policy configurations mean, for `make_policy_classes`: its docstrings and comments."""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from typing import Any

TITLES = {
    "act": "Action Chunking Transformer",
    "diffusion": "Diffusion Policy",
    "eo1": "EO-1",
    "evo1": "EVO-1",
    "fastwam": "FastWAM",
    "gaussian_actor": "Gaussian actor of soft actor-critic (to load; LeRobot trains it with its own scripts)",
    "groot": "GR00T",
    "lingbot_va": "LingBot-VA",
    "molmoact2": "MolmoAct2",
    "multi_task_dit": "Multi-task diffusion transformer",
    "pi0": "π0",
    "pi05": "π0.5",
    "pi0_fast": "π0-FAST",
    "smolvla": "SmolVLA",
    "tdmpc": "TD-MPC",
    "vla_jepa": "VLA-JEPA",
    "vqbet": "VQ-BeT",
    "wall_x": "WALL-X",
    "xvla": "X-VLA",
    "hlrp_vla_direct": "A vision-language model that predicts latent codes, and a decoder from codes to actions",
    "hlrp_action_expert_latent": "Flow-matching action expert, conditioned on latent codes",
    "hlrp_action_expert_direct": "Flow-matching action expert over a vision-language model's cached prefix",
}
# LeRobot says nothing of these, or not to someone who trains with Lightning; `=`: also where LeRobot says something.
KNOWN = {
    "chunk_size": "Actions that are predicted at once.",
    "n_action_steps": "Of these, how many are executed before the next prediction.",
    "horizon": "Actions that are predicted at once.",
    "max_state_dim": "Width that shorter states are padded to.",
    "max_action_dim": "Width that shorter actions are padded to.",
    "optimizer_lr": "Learning rate, the peak where there is a schedule.",
    "optimizer_lr_backbone": "Learning rate of the image backbone.",
    "optimizer_vqvae_lr": "Learning rate of the VQ-VAE.",
    "optimizer_vqvae_weight_decay": "Weight decay of the VQ-VAE.",
    "optimizer_betas": "Adam's decay rates of the first and second moments.",
    "optimizer_eps": "Adam's epsilon.",
    "optimizer_weight_decay": "Weight decay.",
    "optimizer_grad_clip_norm": "Norm at which gradients are clipped.",
    "scheduler_name": "Schedule of the learning rate, by diffusers' name.",
    "scheduler_warmup_steps": "Steps over which the learning rate rises.",
    "scheduler_decay_steps": "Step at which the decay of the learning rate ends; shortened to the run.",
    "scheduler_decay_lr": "Learning rate at the end of the decay.",
    "gradient_checkpointing": "Whether activations are computed again in the backward pass, to save memory.",
    "compile_model": "Whether the model is compiled by torch.",
    "compile_mode": "Mode of torch.compile.",
    "dtype": "Type of the weights, such as float32 or bfloat16.",
    "torch_dtype": "Type of the weights, such as float32 or bfloat16.",
    "model_dtype": "Type of the weights, such as float32 or bfloat16.",
    "tokenizer_max_length": "Longest instruction in tokens.",
    "tokenizer_padding_side": "Side on which short instructions are padded.",
    "tokenizer_name": "Tokenizer of the instructions.",
    "pad_language_to": "Padding of the instructions: `longest` of the batch, or `max_length`.",
    "empty_cameras": "Cameras that are added with empty images.",
    "rtc_config": "LeRobot's real-time chunking; None: off.",
    "resize_imgs_with_padding": "Height and width that images are brought to, keeping their proportions.",
    "image_resolution": "Height and width that images are brought to.",
    "vlm_model_name": "Name or folder of the vision-language model.",
    "=load_vlm_weights": "Whether its pretrained weights are loaded.",
    "freeze_vision_encoder": "Whether the vision encoder is kept as it is.",
    "train_expert_only": "Whether the vision-language model is kept as it is.",
    "train_state_proj": "Whether the projection of the state is trained.",
    "use_cache": "Whether keys and values of the prefix are kept between denoising steps.",
    "max_action_tokens": "Most tokens of a chunk of actions.",
    "text_tokenizer_name": "Tokenizer of the instructions.",
    "action_tokenizer_name": "Tokenizer of the actions.",
    "temperature": "Temperature at which tokens are drawn; 0: the likeliest.",
    "max_decoding_steps": "Most tokens that are generated for a chunk of actions.",
    "fast_skip_tokens": "Tokens at the end of the vocabulary that are left free below the actions' own.",
    "num_steps": "Denoising steps of a chunk.",
    "num_inference_steps": "Denoising steps of a chunk.",
    "attention_mode": "How the action expert attends to the prefix: `cross_attn` or `self_attn`.",
    "prefix_length": "Length that the prefix is padded to; -1: none.",
    "min_period": "Shortest period of the time embedding.",
    "max_period": "Longest period of the time embedding.",
    "paligemma_variant": "Size of the vision-language model.",
    "action_expert_variant": "Size of the action expert.",
    "time_sampling_beta_alpha": "Alpha of the beta distribution that training draws times from.",
    "time_sampling_beta_beta": "Beta of that distribution.",
    "time_sampling_scale": "Scale of the drawn times.",
    "time_sampling_offset": "Offset of the drawn times.",
    "relative_exclude_joints": "Joints that stay absolute with `use_relative_actions`; none: all are relative.",
    "use_relative_actions": "Whether actions are made relative to the state.",
    "action_feature_names": "Names of the action's parts; filled in from the data.",
    "drop_n_last_frames": "Frames at the end of an episode that no sample starts at.",
    "do_mask_loss_for_padding": "Whether padded actions are left out of the loss.",
    "dropout": "Dropout of the transformer.",
    "gpt_hidden_dim": "Width of the GPT's hidden layers.",
    "vqvae_enc_hidden_dim": "Width of the VQ-VAE's hidden layers.",
    "bet_softmax_temperature": "Temperature at which codes are drawn.",
    "adapt_to_pi_aloha": "Whether joints and gripper are converted from the Aloha space to the one of the base model.",
    "crop_ratio": "Share of the image that a crop keeps; used without `crop_shape`.",
    "resize_shape": "Height and width that images are brought to before they are cropped; None: as they are.",
}
NOTHING_SAID = "Not described by LeRobot."
_SECTION = re.compile(r"\s*(Args|Attributes|Parameters|Fields):\s*$")
_ENTRY = re.compile(r"`{0,2}(\w+)`{0,2}(?: \([^)]*\))?: +(.*)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])")
_REMARK = re.compile(r"(see |type:|noqa|e\.g\.|todo|options?:|note)", re.IGNORECASE)


def first_sentence(text: str) -> str:
    """The first sentence, on one line, with its full stop."""
    joined = " ".join(text.split())
    sentence = _SENTENCE_END.split(joined)[0].strip().rstrip(",;:")
    return sentence if not sentence or sentence.endswith((".", "!", "?")) else f"{sentence}."


def meanings(config: type) -> dict[str, str]:
    """What every field of a configuration class means, in a sentence; without those that all policies have."""
    written, aside, above = {}, {}, {}
    for cls in reversed(config.__mro__):
        if dataclasses.is_dataclass(cls):
            written |= documented(inspect.cleandoc(cls.__doc__ or ""))
            trailing, before = comments(cls)
            aside |= trailing
            above |= before
    found = {}
    for name in {field.name for field in dataclasses.fields(config)} - shared_fields().keys():
        said = (KNOWN.get(f"={name}"), written.get(name), aside.get(name), KNOWN.get(name), above.get(name))
        found[name] = _capital(next((text for text in said if text), NOTHING_SAID))
    return found


def _capital(text: str) -> str:
    return text if text.startswith("`") or text.split(" ", maxsplit=1)[0].isupper() else text[:1].upper() + text[1:]


def documented(docstring: str) -> dict[str, str]:
    """Name to first sentence of what an `Args:` section lists."""
    found: dict[str, list[str]] = {}
    name, indent, inside = "", 0, False
    for line in docstring.splitlines():
        if _SECTION.match(line):
            inside, indent, name = True, -1, ""
            continue
        if not inside or not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        indent = depth if indent == -1 else indent
        if depth < indent or depth == 0:
            inside = False
        elif depth == indent and (entry := _ENTRY.match(line.strip())):
            name = entry[1]
            found[name] = [entry[2]]
        elif depth > indent and name:
            found[name].append(line.strip())
    return {name: first_sentence(" ".join(lines)) for name, lines in found.items()}


def comments(cls: type) -> tuple[dict[str, str], dict[str, str]]:
    """What comments say of fields: behind them, and in sentences above them; headings are left out."""
    source = textwrap.dedent(inspect.getsource(cls))
    texts, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            texts[token.start[0]] = token.string.lstrip("# ").strip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    aside, above = {}, {}
    body: Any = ast.parse(source).body[0]
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, line = node.target.id, node.lineno - 1
        behind = texts.get(node.end_lineno or node.lineno, "")
        if len(behind.split()) >= 3 and not _REMARK.match(behind):
            aside[name] = first_sentence(behind)
        block: list[str] = []
        while line in alone:
            block.insert(0, texts[line])
            line -= 1
        said = " ".join(text for text in block if "---" not in text and "===" not in text)
        if len(said.split()) >= 6 and not _REMARK.match(said):
            above[name] = first_sentence(said)
    return aside, above


def shared_fields() -> dict[str, str]:
    """What the fields that all policies have mean, which `CleanPolicy` says for them all."""
    from hlrp.policies.clean import CleanPolicy

    return documented(inspect.cleandoc(CleanPolicy.__doc__ or ""))


def adapter_options() -> list[tuple[str, str, str]]:
    """Name, annotation and default of the arguments of `LeRobotPolicyAdapter` that are no fields, as source text."""
    from hlrp.policies.adapter import LeRobotPolicyAdapter

    source: Any = ast.parse(textwrap.dedent(inspect.getsource(LeRobotPolicyAdapter.__init__))).body[0]
    found = []
    for argument, default in zip(source.args.kwonlyargs, source.args.kw_defaults, strict=True):
        hint = argument.annotation
        text = str(hint.value) if isinstance(hint, ast.Constant) else ast.unparse(hint)
        found.append((argument.arg, text, ast.unparse(default)))
    return found
