"""Base of the backends whose backbone is a vision-language model of transformers with its processor."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from hlrp.errors import UserError
from hlrp.files import write_json
from hlrp.foundation.backbones import load_backbone
from hlrp.foundation.backends.interfaces import FoundationBatch, VLABackend
from hlrp.foundation.config import BackendConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

WHERE = "model.backbone"


class TransformersBackend(VLABackend):
    """A backend on a vision-language model of transformers; a subclass sets `vlm`, which is saved, to it or its trunk.

    Args:
        config: What is predicted from what.
        model: The vision-language model.
        processor: Its processor.

    Raises:
        UserError: The model is of another type than the backend's.
    """

    family: ClassVar[str]
    """The backbones that it takes, in words."""
    vlm: Any

    def __init__(self, config: BackendConfig, model: "PreTrainedModel", processor: "ProcessorMixin") -> None:
        super().__init__(config)
        if model.config.model_type != self.model_type:
            raise UserError(
                f"backend {config.backend} needs a {self.model_type!r} model, this one is {model.config.model_type!r}",
                where=WHERE,
                fix=f"use a {self.family} backbone",
            )
        self.processor: Any = processor

    @classmethod
    def from_backbone(cls, config: BackendConfig, folder: Path, *, weights: bool = True) -> Self:
        """As `VLABackend.from_backbone`; see `hlrp.foundation.backbones.load_backbone`."""
        backend = cls(config, *load_backbone(folder, weights=weights))
        backend.setup()
        return backend

    def save_backbone(self, folder: Path) -> None:
        """Write the backbone's configuration, tokenizer (added tokens included) and processor, without weights."""
        folder.mkdir(parents=True, exist_ok=True)
        self.vlm.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        _template_as_json(folder)

    def _keep_layers(self, text: Any, *, least: int = 1) -> None:
        """Keep the first `config.layers` layers of the language model ``text``, which needs ``least`` of them."""
        count = self.config.layers
        if count is None:
            return
        if not least <= count <= len(text.layers):
            raise UserError(
                f"{count} language layers are asked for, the backbone has {len(text.layers)} and needs {least}",
                where="model.layers",
                fix=f"give {least} to {len(text.layers)}, or leave it out",
            )
        text.layers = text.layers[:count]
        # The saved configuration then describes the modules that there are.
        text.config.num_hidden_layers = self.vlm.config.text_config.num_hidden_layers = count

    def _camera_images(self, batch: FoundationBatch) -> list[Tensor]:
        """The frames ``[B, 3, H, W]`` of each camera that the model sees."""
        if missing := [camera for camera in self.config.cameras if camera not in batch.images]:
            seen = ", ".join(self.config.cameras)
            raise ValueError(f"images: {', '.join(missing)} is missing from the batch; the model sees {seen}")
        return [batch.images[camera] for camera in self.config.cameras]

    def _checked_state(self, batch: FoundationBatch) -> Tensor:
        """The state that the model sees, ``[B, D_state]``."""
        if batch.state is None or batch.state.shape[1] != self.config.state_dim:
            given = "none" if batch.state is None else batch.state.shape[1]
            raise ValueError(f"state: {self.config.state_dim} numbers per sample are needed, got {given}")
        return batch.state


def refuse_unlike(pairs: Iterable[Sequence[object]], *others: str) -> None:
    """Refuse a backbone whose files do not fit each other.

    Args:
        pairs: What has to agree: its name, the one file and what it says, the other and what it says.
        *others: Further disagreements, one phrase each.

    Raises:
        UserError: Naming all that differs.
    """
    unlike = [f"{what}: {a} {mine}, {b} {theirs}" for what, a, mine, b, theirs in pairs if mine != theirs]
    if unlike := [*unlike, *others]:
        raise UserError(
            f"tokenizer, processor and model do not fit each other ({'; '.join(unlike)})",
            where=WHERE,
            fix="use the files of one backbone",
        )


def _template_as_json(folder: Path) -> None:
    """Keep a processor's chat template as `chat_template.json`, which transformers reads as well.

    LeRobot uploads a policy's JSON, YAML, Markdown and safetensors files alone: a `chat_template.jinja` would not be
    among them. Of several templates the default one is kept: prompts are made with no other.
    """
    template = folder / "chat_template.jinja"
    if template.is_file():
        write_json(folder / "chat_template.json", {"chat_template": template.read_text(encoding="utf8")})
        template.unlink()
        shutil.rmtree(folder / "chat_templates", ignore_errors=True)
