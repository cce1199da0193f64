"""From a folder to a model and its processor: safetensors only, no code from the folder, no network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def load_backbone(folder: Path, *, weights: bool = True) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """Load a vision-language model and its processor.

    Args:
        folder: A model folder of transformers.
        weights: Read the weights; False: the architecture with random weights, for those of a checkpoint that follow.
            Then the folder needs no weights.

    Returns:
        The model, float32, on the CPU, in evaluation mode where weights are read; and the processor.

    Raises:
        UserError: The folder holds no such model, its weights are not whole or no safetensors, or a package is missing.
    """
    require_transformers()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    report: dict[str, Any] = {}
    try:
        with quiet_transformers():
            processor = AutoProcessor.from_pretrained(folder, **options)
            if weights:
                model, report = AutoModelForImageTextToText.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
                )
            else:
                config = AutoConfig.from_pretrained(folder, **options)
                model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    except ImportError as error:
        raise _missing_package(error) from error
    except Exception as error:  # whatever a damaged file makes of the many parsers in between
        raise UserError(
            f"the backbone cannot be loaded: {' '.join(str(error).split())}",
            where=str(folder),
            fix="give a folder with config.json, tokenizer, processor and model.safetensors, or its name",
        ) from error
    if not isinstance(processor, ProcessorMixin):
        raise UserError(
            f"the backbone has no processor, only a {type(processor).__name__}",
            where=str(folder),
            fix="copy the model's preprocessor_config.json and processor_config.json too",
        )
    # What transformers would only log: weights that the files lack stay random.
    missing = sorted(report.get("missing_keys", ()))
    shapes = sorted(str(k) for k in report.get("mismatched_keys", ()))
    if missing or shapes:
        lacking = f"{len(missing)} tensors are missing ({', '.join(missing[:3])})" if missing else ""
        unlike = f"{len(shapes)} have other shapes ({', '.join(shapes[:3])})" if shapes else ""
        raise UserError(
            f"the weights do not fit the backbone's config.json: {'; '.join(filter(None, (lacking, unlike)))}",
            where=str(folder),
            fix="copy the model again; config.json and weights must be of one model",
        )
    return model, processor


def require_transformers() -> None:
    """Check that transformers is installed.

    Raises:
        UserError: It is not.
    """
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        raise _missing_package("transformers is not installed")


def _missing_package(reason: object) -> UserError:
    return UserError(
        f"vision-language backbones need a package that is missing: {' '.join(str(reason).split())}",
        fix="pip install 'lerobot_policy_felix_bundle[smolvla]'",
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers writes no bars and hints to the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
