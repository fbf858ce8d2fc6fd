"""The demonstration: a drive through the node over ROS 2, with pictures and scores of what it saw."""
