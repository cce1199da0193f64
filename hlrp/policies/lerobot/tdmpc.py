"""`TDMPC`: the clean class of LeRobot's policy `tdmpc`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class TDMPC(CleanPolicy):
    """TD-MPC.

    LeRobot's policy `tdmpc`, trained by Lightning. Fields that are not given are LeRobot's
    defaults, or those of the checkpoint that it starts from.

    Args:
        n_obs_steps: Number of environment steps worth of observations to pass to the policy (takes the current step
            and additional steps going back).
        input_features: Features that the policy reads; taken from the data where none are given.
        output_features: Features that the policy predicts; taken from the data where none are given.
        device: Where `from_dataset` and `from_pretrained` make the policy; training is on the trainer's `device`.
        use_amp: Mixed precision of LeRobot's own loop; in Lightning it is the trainer's `precision`.
        use_peft: Whether the policy was trained with PEFT.
        push_to_hub: Whether LeRobot's own training uploads the result; Lightning's does not.
        repo_id: Name of the policy on the hub.
        private: Whether its repository is private.
        tags: Tags of the repository.
        license: Licence of the repository.
        pretrained_path: Another name of `init_from`.
        pretrained_revision: Hub revision of the pretrained weights: commit, branch or tag.
        n_action_repeats: The number of times to repeat the action returned by the planning.
        horizon: Horizon for model predictive control.
        n_action_steps: Number of action steps to take from the plan given by model predictive control.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        image_encoder_hidden_dim: Number of channels for the convolutional layers used for image encoding.
        state_encoder_hidden_dim: Hidden dimension for MLP used for state vector encoding.
        latent_dim: Observation's latent embedding dimension.
        q_ensemble_size: Number of Q function estimators to use in an ensemble for uncertainty estimation.
        mlp_dim: Hidden dimension of MLPs used for modelling the dynamics encoder, reward function, policy (π), Q
            ensemble, and V.
        discount: Discount factor (γ) to use for the reinforcement learning formalism.
        use_mpc: Whether to use model predictive control.
        cem_iterations: Number of iterations for the MPPI/CEM loop in MPC.
        max_std: Maximum standard deviation for actions sampled from the gaussian PDF in CEM.
        min_std: Minimum standard deviation for noise applied to actions sampled from the policy model (π).
        n_gaussian_samples: Number of samples to draw from the gaussian distribution every CEM iteration.
        n_pi_samples: Number of samples to draw from the policy / world model rollout every CEM iteration.
        uncertainty_regularizer_coeff: Coefficient for the uncertainty regularization used when estimating trajectory
            values (this is the λ coefficient in eqn 4 of FOWM).
        n_elites: The number of elite samples to use for updating the gaussian parameters every CEM iteration.
        elite_weighting_temperature: The temperature to use for softmax weighting (by trajectory value) of the elites,
            when updating the gaussian parameters for CEM.
        gaussian_mean_momentum: Momentum (α) used for EMA updates of the mean parameter μ of the gaussian parameters
            optimized in CEM.
        max_random_shift_ratio: Maximum random shift (as a proportion of the image size) to apply to the image(s) (in
            units of pixels) for training-time augmentation.
        reward_coeff: Loss weighting coefficient for the reward regression loss.
        expectile_weight: Weighting (τ) used in expectile regression for the state value function (V). v_pred <
            v_target is weighted by τ and v_pred >= v_target is weighted by (1-τ). τ is expected to be in [0, 1].
        value_coeff: Loss weighting coefficient for both the state-action value (Q) TD loss, and the state value (V)
            expectile regression loss.
        consistency_coeff: Loss weighting coefficient for the consistency loss.
        advantage_scaling: A factor by which the advantages are scaled prior to exponentiation for advantage weighted
            regression of the policy (π) estimator parameters.
        pi_coeff: Loss weighting coefficient for the action regression loss.
        temporal_decay_coeff: Exponential decay coefficient for decaying the loss coefficient for future time- steps.
        target_model_momentum: Momentum (α) used for EMA updates of the target models.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "tdmpc"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        output_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        device: str | None = None,
        use_amp: bool = False,
        use_peft: bool = False,
        push_to_hub: bool = True,
        repo_id: str | None = None,
        private: bool | None = None,
        tags: Sequence[str] | None = None,
        license: str | None = None,
        pretrained_path: Path | str | None = None,
        pretrained_revision: str | None = None,
        n_action_repeats: int = 2,
        horizon: int = 5,
        n_action_steps: int = 1,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ENV": "IDENTITY", "ACTION": "MIN_MAX"}
        ),
        image_encoder_hidden_dim: int = 32,
        state_encoder_hidden_dim: int = 256,
        latent_dim: int = 50,
        q_ensemble_size: int = 5,
        mlp_dim: int = 512,
        discount: float = 0.9,
        use_mpc: bool = True,
        cem_iterations: int = 6,
        max_std: float = 2.0,
        min_std: float = 0.05,
        n_gaussian_samples: int = 512,
        n_pi_samples: int = 51,
        uncertainty_regularizer_coeff: float = 1.0,
        n_elites: int = 50,
        elite_weighting_temperature: float = 0.5,
        gaussian_mean_momentum: float = 0.1,
        max_random_shift_ratio: float = 0.0476,
        reward_coeff: float = 0.5,
        expectile_weight: float = 0.9,
        value_coeff: float = 0.1,
        consistency_coeff: float = 20.0,
        advantage_scaling: float = 3.0,
        pi_coeff: float = 0.5,
        temporal_decay_coeff: float = 0.5,
        target_model_momentum: float = 0.995,
        optimizer_lr: float = 0.0003,
        learning_rate: float = 0.0003,
        lr: float = 0.0003,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: "SampleWeighter | None" = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...

    from_dataset = maker_for_dataset(__init__)
    from_pretrained = maker_from_pretrained(__init__)  # type: ignore[assignment]
