"""offramp and the engines that a user would pick instead, measured in turn on one machine."""
