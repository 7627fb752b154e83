"""Where results go: names, artifact files, and MLflow. Knows the shape of a defense's result and nothing of a study."""
