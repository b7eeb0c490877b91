"""The claims on CPU cores, float32."""
