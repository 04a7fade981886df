"""medloop labels medical images in a closed loop and certifies how many labels are wrong."""

__version__ = "0.1.0"
