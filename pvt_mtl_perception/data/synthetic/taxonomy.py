"""Ids of the driving label sets by name, as the renderer paints them."""

from __future__ import annotations

from pvt_mtl_perception.labels import IGNORE_INDEX, load_label_set

SEGMENTATION = load_label_set("driving_segmentation")
DETECTION = load_label_set("driving_detection")
WEATHER = load_label_set("driving_weather")
SCENE = load_label_set("driving_scene")
TIME_OF_DAY = load_label_set("driving_timeofday")

ROAD = SEGMENTATION.index("road")
SIDEWALK = SEGMENTATION.index("sidewalk")
BUILDING = SEGMENTATION.index("building")
WALL = SEGMENTATION.index("wall")
FENCE = SEGMENTATION.index("fence")
POLE = SEGMENTATION.index("pole")
VEGETATION = SEGMENTATION.index("vegetation")
TERRAIN = SEGMENTATION.index("terrain")
SKY = SEGMENTATION.index("sky")
VOID = IGNORE_INDEX

# Segmentation class of each kind of instance; the detection set calls a person a pedestrian.
SEGMENTATION_OF_DETECTION = tuple(
    SEGMENTATION.index("person" if name == "pedestrian" else name) for name in DETECTION.names
)
PEDESTRIAN = DETECTION.index("pedestrian")
RIDER = DETECTION.index("rider")
CAR = DETECTION.index("car")
TRUCK = DETECTION.index("truck")
BUS = DETECTION.index("bus")
TRAIN = DETECTION.index("train")
MOTORCYCLE = DETECTION.index("motorcycle")
BICYCLE = DETECTION.index("bicycle")
TRAFFIC_LIGHT = DETECTION.index("traffic light")
TRAFFIC_SIGN = DETECTION.index("traffic sign")
