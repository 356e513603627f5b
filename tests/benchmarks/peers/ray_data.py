"""Ray Data, as its documentation of batch inference does it: ``ray_data.py FACES WEIGHTS TARGET``."""

from __future__ import annotations

import os
import sys

import ray

faces, weights, target = sys.argv[1:]


class Extractor:
    def __init__(self) -> None:
        import keras

        network = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
        if weights != "random":
            network.load_weights(weights)
        mixed_10 = network.get_layer("mixed10").output
        self.model = keras.Model(network.input, [keras.layers.GlobalAveragePooling2D()(mixed_10), mixed_10])
        self.preprocess = keras.applications.inception_v3.preprocess_input

    def __call__(self, batch):
        images = self.preprocess(batch.pop("image").astype("float32"))
        batch["pool_3"], batch["mixed_10"] = self.model.predict(images, batch_size=32, verbose=0)
        return batch


os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray.init("local", include_dashboard=False, log_to_driver=False)
images = ray.data.read_images(faces, size=(299, 299), mode="RGB", include_paths=True, file_extensions=["png", "jpg"])
images.map_batches(Extractor, batch_size=32, concurrency=1).write_parquet(target)
