"""From many steps to few: regression on a teacher's walks, then the student's own rollouts held to two scores."""
