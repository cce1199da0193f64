"""Rolling policies out in simulators: what is asked, the plan, the rollouts, their statistics and comparisons."""
