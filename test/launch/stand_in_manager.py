"""Stands in for Nav2's lifecycle_manager: takes its parameters and, as with autostart false, does nothing."""

from __future__ import annotations

import sys

import rclpy
from rclpy.executors import ExternalShutdownException


def main() -> None:
    """Entry point."""
    rclpy.init()
    node = rclpy.create_node("lifecycle_manager", automatically_declare_parameters_from_overrides=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(0)


if __name__ == "__main__":
    main()
