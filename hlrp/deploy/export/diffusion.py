"""Diffusion policy: one graph for the observations, one for a denoising step of LeRobot's scheduler."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hlrp.deploy.export.programs import Program, Tensors
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.runtime.manifest import Noise


class DiffusionProgram(Program):
    """DDPM (Ho et al., 2020) and deterministic DDIM (Song et al., 2021), predicting noise or samples."""

    def __init__(self, loaded: LoadedPolicy) -> None:
        super().__init__(loaded)
        self._model = self.policy.diffusion
        scheduler = self._model.noise_scheduler
        scheduler.set_timesteps(self._model.num_inference_steps)
        self._times = scheduler.timesteps.clone().to(torch.int64)
        self.steps = len(self._times)
        draws = self.config.noise_scheduler_type == "DDPM"
        # The last step, to time 0, draws nothing.
        draws_anew = int((self._times > 0).sum()) if draws else 0
        self.noise = Noise((self.config.horizon, *self.config.output_features["action"].shape), 1 + draws_anew)
        self._tables = _ddpm(scheduler, self._times) if draws else _ddim(scheduler, self._times)

    def encode(self, batch: dict[str, Any]) -> Tensors:
        """What the U-Net is conditioned on, ``[1, width]``."""
        seen: Tensors = {}

        def sample(_: int, global_cond: Tensor, **__: Any) -> Tensor:
            seen["condition"] = global_cond
            return global_cond.new_zeros(1, *self.noise.shape) if self.noise else global_cond

        self._model.conditional_sample = sample
        try:
            self.policy.predict_action_chunk(batch)
        finally:
            del self._model.conditional_sample
        return seen

    def denoise(self, sample: Tensor, number: Tensor, noise: Tensor | None, encoded: Mapping[str, Tensor]) -> Tensor:
        """The sample at the time before."""
        config = self.config
        output = self._model.unet(sample, self._times[number], global_cond=encoded["condition"])
        signal, spread, of_clean, of_sample, of_noise, deviation = (table[number, None, None] for table in self._tables)
        if config.prediction_type == "epsilon":
            clean, predicted_noise = (sample - spread * output) / signal, output
        else:
            clean, predicted_noise = output, (sample - signal * output) / spread
        if config.clip_sample:
            clean = clean.clamp(-config.clip_sample_range, config.clip_sample_range)
        result = of_clean * clean + of_sample * sample + of_noise * predicted_noise
        return result if noise is None else result + deviation * noise

    def chunk(self, sample: Tensor) -> Tensor:
        """The actions from the newest observation on."""
        start = self.config.n_obs_steps - 1
        return sample[:, start : start + self.config.n_action_steps]


def _ddpm(scheduler: Any, times: Tensor) -> tuple[Tensor, ...]:
    """By step: signal, spread; shares of the clean sample, the sample, the predicted noise; deviation of new noise."""
    kept = scheduler.alphas_cumprod[times]
    before = [scheduler.previous_timestep(t) for t in times]
    kept_before = torch.stack([scheduler.alphas_cumprod[t] if t >= 0 else scheduler.one for t in before])
    step = kept / kept_before
    variance = ((1 - kept_before) / (1 - kept) * (1 - step)).clamp(min=1e-20)
    deviation = torch.where(times > 0, variance.sqrt(), 0.0)
    of_clean = kept_before.sqrt() * (1 - step) / (1 - kept)
    of_sample = step.sqrt() * (1 - kept_before) / (1 - kept)
    return kept.sqrt(), (1 - kept).sqrt(), of_clean, of_sample, torch.zeros_like(kept), deviation


def _ddim(scheduler: Any, times: Tensor) -> tuple[Tensor, ...]:
    """As `_ddpm`."""
    kept = scheduler.alphas_cumprod[times]
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    last = scheduler.final_alpha_cumprod
    kept_before = torch.stack([scheduler.alphas_cumprod[t - stride] if t >= stride else last for t in times])
    none = torch.zeros_like(kept)
    return kept.sqrt(), (1 - kept).sqrt(), kept_before.sqrt(), none, (1 - kept_before).sqrt(), none
