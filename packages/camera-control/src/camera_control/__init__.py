"""Camera trajectories for world models: actions, poses, rays, UCPE."""
