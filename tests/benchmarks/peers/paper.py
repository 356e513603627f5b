"""The paper's way, as a competent person would write it: ``paper.py FACES WEIGHTS TARGET``."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image

faces, weights, target = sys.argv[1:]
files = sorted(path for path in Path(faces).rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tiff"))
network = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
if weights != "random":
    network.load_weights(weights)
mixed_10 = network.get_layer("mixed10").output
model = keras.Model(network.input, [keras.layers.GlobalAveragePooling2D()(mixed_10), mixed_10])
Path(target).mkdir()
for at in range(0, len(files), 32):
    pictures = [
        Image.open(file).convert("RGB").resize((299, 299), Image.Resampling.BILINEAR) for file in files[at : at + 32]
    ]
    batch = np.stack([np.asarray(picture, np.float32) for picture in pictures])
    features = model.predict(keras.applications.inception_v3.preprocess_input(batch), batch_size=32, verbose=0)
    for name, values in zip(("pool_3", "mixed_10"), features, strict=True):
        np.save(f"{target}/{name}-{at:06}.npy", values)
