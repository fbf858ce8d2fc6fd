"""Rosbags without ROS: camera images out of them, results into them."""
