"""`TDMPC`: LeRobot's policy `tdmpc` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class TDMPC(CleanPolicy):
    """TD-MPC.

    LeRobot's policy `tdmpc`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`.

    Args:
        n_action_repeats: The number of times to repeat the action returned by the planning.
        horizon: Horizon for model predictive control.
        n_action_steps: Number of action steps to take from the plan given by model predictive control.
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
    """

    lerobot_type = "tdmpc"
