"""`GaussianActor`: LeRobot's policy `gaussian_actor` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class GaussianActor(CleanPolicy):
    """Gaussian actor of soft actor-critic (to load; LeRobot trains it with its own scripts).

    LeRobot's policy `gaussian_actor`, trained by Lightning; `CleanPolicy` says what all policies take.

    Args:
        dataset_stats: Statistics for normalizing different types of inputs.
        storage_device: Device to store the model on.
        vision_encoder_name: Name of the vision encoder model (Set to "lerobot/resnet10" for hil serl resnet10).
        freeze_vision_encoder: Whether the vision encoder is kept as it is.
        image_encoder_hidden_dim: Hidden dimension size for the image encoder.
        shared_encoder: Whether to use a shared encoder for actor and critic.
        num_discrete_actions: Number of discrete actions, eg for gripper actions.
        image_embedding_pooling_dim: Dimension of the image embedding pooling.
        state_encoder_hidden_dim: Encoder architecture Hidden dimension size for the state encoder.
        online_steps: Online training (TODO(Khalil): relocate to TrainRLServerPipelineConfig) Number of steps for
            online training.
        online_buffer_capacity: Capacity of the online replay buffer.
        offline_buffer_capacity: Capacity of the offline replay buffer.
        async_prefetch: Whether to use asynchronous prefetching for the buffers.
        online_step_before_learning: Number of steps before learning starts.
        actor_learner_config: Actor-learner transport (TODO(Khalil): relocate to TrainRLServerPipelineConfig).
        concurrency: Configuration for concurrency settings (you can use threads or processes for the actor and
            learner).
        actor_network_kwargs: Network architecture Configuration for the actor network architecture.
        policy_kwargs: Configuration for the policy parameters (Gaussian head).
        discrete_critic_network_kwargs: Configuration for the discrete critic network.
    """

    lerobot_type = "gaussian_actor"
