"""Video backbones: S3D, S3D-G and 2D-3D ResNet-50."""
