"""The web page of `--mode=serve`: drop a video, choose its sound, see what the model marks."""
