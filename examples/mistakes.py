"""What a type checker finds in clean classes: every line marked `error:` is refused, and no other one."""

from pathlib import Path

from hlrp.policies.lerobot import ACT, Diffusion

ACT(hidden_dim=512, chunk_size=20, learning_rate=1e-4)
ACT(hiden_dim=512)  # error: Unexpected keyword argument "hiden_dim"
ACT(chunk_size="20")  # error: incompatible type "str"; expected "int"
Diffusion(crop_shape=None, down_dims=(64, 128), normalization_mapping={"ACTION": "MIN_MAX"})
Diffusion(down_dims=0.5)  # error: incompatible type "float"
policy: ACT = ACT.from_dataset(Path("data/mw"), dim_model=64)
ACT.from_dataset("data/mw", dim_modle=64)  # error: Unexpected keyword argument "dim_modle"
ACT.from_pretrained("outputs/act", kl_weight="1")  # error: incompatible type "str"; expected "float"
policy.save_pretrained(Path("saved"))
