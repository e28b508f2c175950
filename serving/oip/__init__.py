"""The Open Inference Protocol v2, whatever carries it: tensors of images in, logits, scores and labels out."""
