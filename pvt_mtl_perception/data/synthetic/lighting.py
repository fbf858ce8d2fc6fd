"""Weather, time of day and place as light: what reaches a surface, what the air adds, what the sky shows."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.data.synthetic.dice import Dice

Floats = npt.NDArray[np.float64]
Triple = tuple[float, float, float]
_pack_matrix = struct.Struct("12f").pack_into


def color_matrix(*values: float) -> npt.NDArray[np.float32]:
    """Twelve numbers, row by row, as float32 (3, 4) for ``cv2.transform``; faster than ``np.array``."""
    matrix = np.empty((3, 4), np.float32)
    _pack_matrix(matrix.data, 0, *values)
    return matrix


@dataclass(frozen=True)
class Conditions:
    """Names of the driving_weather, driving_scene and driving_timeofday label sets."""

    weather: str
    scene: str
    time_of_day: str


@dataclass(frozen=True)
class Light:
    """The light of one frame; colours are RGB and include exposure and white balance.

    Attributes:
        ambient, sun: what sky and sun give to a surface of reflectance 1.
        sun_direction: unit vector to the sun, world axes.
        fog_color, fog_density: colour of the air and its extinction per metre.
        headlights: gain on a surface ten metres ahead from the car's own lamps.
        sky_top, sky_horizon, cloud, cloud_dark: colours 0..255.
        cloud_cover: 0 (none) .. 1 (closed).
        lamps: street lamps, windows and vehicle lights are on.
        vehicle_lights: vehicles drive with lights on.
        wetness, snow: 0..1.
        exposure: factor that all colours already contain.
    """

    ambient: Floats
    sun: Floats
    sun_direction: Floats
    fog_color: Floats
    fog_density: float
    headlights: float
    sky_top: Floats
    sky_horizon: Floats
    cloud: Floats
    cloud_dark: Floats
    cloud_cover: float
    lamps: bool
    vehicle_lights: bool
    wetness: float
    snow: float
    exposure: float
    noise: int

    @property
    def casts_shadows(self) -> bool:
        """Whether the sun is strong enough for shadows with an edge."""
        return bool(self.sun[1] > 0.25 * self.ambient[1])

    @cached_property
    def _plain(self) -> tuple[Triple, Triple, Triple, Triple]:
        ambient, sun, direction, fog = (
            tuple(v.tolist()) for v in (self.ambient, self.sun, self.sun_direction, self.fog_color)
        )
        return ambient, sun, direction, fog

    def gain(self, normal: Triple, depth: float, sunlit: float = 1.0) -> tuple[Triple, Triple]:
        """Gain and offset that turn a surface's colour into the pixel's, both RGB.

        Args:
            normal: unit normal, world axes.
            depth: metres from the camera.
            sunlit: 0 in shadow, 1 in the sun.
        """
        ambient, sun, direction, fog = self._plain
        facing = normal[0] * direction[0] + normal[1] * direction[1] + normal[2] * direction[2]
        clear = math.exp(-self.fog_density * depth)
        sunny = facing * sunlit * clear if facing > 0.0 else 0.0
        open_sky = (0.78 + 0.22 * normal[2]) * clear
        own = self.headlights * min(1.6, (10.0 / max(depth, 3.0)) ** 1.3) * clear if self.headlights else 0.0
        haze = 1.0 - clear
        return (
            ambient[0] * open_sky + sun[0] * sunny + own,
            ambient[1] * open_sky + sun[1] * sunny + own,
            ambient[2] * open_sky + sun[2] * sunny + own,
        ), (fog[0] * haze, fog[1] * haze, fog[2] * haze)

    def tone(self, color: Sequence[float], normal: Triple, depth: float, sunlit: float = 1.0) -> Triple:
        """The colour of one face as it reaches the camera, RGB; above 255 where it is overexposed."""
        (a, b, c), (u, v, w) = self.gain(normal, depth, sunlit)
        red, green, blue = color
        return red * a + u, green * b + v, blue * c + w

    def shade(self, colors: Floats, normals: Floats, depth: float, sunlit: float = 1.0) -> Floats:
        """Colours (F, 3) of faces with unit normals (F, 3) at one depth, as they reach the camera."""
        facing = np.maximum(normals @ self.sun_direction, 0.0) * sunlit
        gain = self.ambient * (0.78 + 0.22 * normals[:, 2:]) + self.sun * facing[:, None]
        if self.headlights:
            gain += self.headlights * min(1.6, (10.0 / max(depth, 3.0)) ** 1.3)
        clear = math.exp(-self.fog_density * depth)
        return np.minimum(colors * gain * clear + self.fog_color * (1.0 - clear), 255.0)

    def through_air(self, color: Floats, depth: float) -> Floats:
        """A light's own colour (3,) as it reaches the camera."""
        clear = math.exp(-self.fog_density * depth)
        return np.minimum(color * clear + self.fog_color * (1.0 - clear), 255.0)

    def matrix(
        self, normal: Triple, depth: float, tint: Sequence[float], sunlit: float = 1.0
    ) -> npt.NDArray[np.float32]:
        """What turns an RGB texture into pixels, float32 (3, 4) for ``cv2.transform``."""
        (a, b, c), (u, v, w) = self.gain(normal, depth, sunlit)
        x, y, z = tint
        return color_matrix(a * x, 0.0, 0.0, u, 0.0, b * y, 0.0, v, 0.0, 0.0, c * z, w)

    def ramp(
        self, normal: Triple, depth: float, color: Sequence[float], sunlit: float = 1.0
    ) -> npt.NDArray[np.float32]:
        """What turns brightness (128 = ``color``) into pixels, float32 (3, 4) for ``cv2.transform``.

        Brightness is the first of three channels: from one channel to three ``cv2.transform`` is slow.
        """
        (a, b, c), (u, v, w) = self.gain(normal, depth, sunlit)
        x, y, z = color
        return color_matrix(a * x / 128, 0.0, 0.0, u, b * y / 128, 0.0, 0.0, v, c * z / 128, 0.0, 0.0, w)


def make_light(conditions: Conditions, dice: Dice) -> Light:
    """Draws the light of a frame.

    Exposure, white balance and the strength of the light overlap between the times of day, so that mean
    brightness tells them apart only in part.
    """
    weather, time = conditions.weather, conditions.time_of_day
    warm = dice.uniform(-0.07, 0.07)
    balance = np.array([1 + warm, 1 + dice.uniform(-0.02, 0.02), 1 - warm])
    azimuth = dice.uniform(-math.pi, math.pi)
    if time == "daytime":
        exposure = math.exp(dice.uniform(math.log(0.75), math.log(1.6)))
        elevation = dice.uniform(0.35, 1.1)
    elif time == "dawn/dusk":
        exposure = math.exp(dice.uniform(math.log(0.8), math.log(2.0)))
        elevation = dice.uniform(0.06, 0.25)
    else:
        exposure = math.exp(dice.uniform(math.log(0.9), math.log(2.8)))
        elevation = 0.5
    direction = np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            math.cos(elevation) * math.cos(azimuth),
            math.sin(elevation),
        ]
    )
    sun = np.zeros(3)
    cover = 0.0
    cloud, cloud_dark = np.array([246.0, 247.0, 250.0]), np.array([170.0, 176.0, 188.0])
    fog_density = dice.uniform(0.0004, 0.0016)
    lamps = vehicle_lights = False
    if time == "daytime":
        top, horizon = np.array([74.0, 126.0, 206.0]), np.array([196.0, 220.0, 243.0])
        top = top * dice.uniform(0.8, 1.3)
        ambient = np.array([0.47, 0.51, 0.60])
        if weather in ("clear", "partly cloudy"):
            sun = np.array([0.98, 0.93, 0.84]) * dice.uniform(0.8, 1.25)
            cover = dice.uniform(0.0, 0.03) if weather == "clear" else dice.uniform(0.3, 0.6)
            if weather == "partly cloudy":
                sun *= dice.uniform(0.3, 0.9)
                ambient = ambient * 1.15
        else:
            level = {"overcast": 1.0, "rainy": 0.72, "snowy": 0.95, "foggy": 0.9}[weather]
            ambient = np.array([0.86, 0.88, 0.92]) * level * dice.uniform(0.85, 1.1)
            grey = np.array([206.0, 210.0, 216.0]) * level * dice.uniform(0.85, 1.15)
            top, horizon = grey * dice.uniform(0.75, 0.95), grey
            cloud, cloud_dark, cover = grey * 1.08, grey * dice.uniform(0.6, 0.85), 0.7
            vehicle_lights = weather != "overcast" and dice.chance(0.6)
    elif time == "dawn/dusk":
        strength = dice.uniform(0.5, 1.0)
        top = np.array([76.0, 96.0, 150.0]) * strength
        horizon = np.array([250.0, dice.uniform(150.0, 200.0), dice.uniform(96.0, 150.0)]) * (
            0.55 + 0.45 * strength
        )
        ambient = np.array([0.40, 0.37, 0.43]) * strength
        cloud = np.array([240.0, 160.0, 130.0]) * strength
        cloud_dark = np.array([110.0, 96.0, 120.0]) * strength
        if weather in ("clear", "partly cloudy"):
            sun = np.array([1.0, 0.62, 0.32]) * dice.uniform(0.2, 1.0) * strength
            cover = dice.uniform(0.0, 0.03) if weather == "clear" else dice.uniform(0.3, 0.6)
        else:
            grey = np.array([150.0, 142.0, 152.0]) * strength
            top, horizon = grey * 0.8, grey * np.array([1.16, 1.0, 0.9])
            cloud, cloud_dark, cover = grey * 1.1, grey * 0.62, 0.7
            ambient = np.array([0.46, 0.43, 0.47]) * strength
        vehicle_lights = dice.chance(0.8)
        lamps = dice.chance(0.75)
    else:
        ambient = np.array([0.17, 0.155, 0.16]) * dice.uniform(0.7, 1.4)
        top, horizon = np.array([9.0, 11.0, 24.0]), np.array([40.0, 35.0, 40.0]) * dice.uniform(0.5, 1.6)
        # Clouds over a town are lit from below.
        cloud, cloud_dark = horizon * 1.5 + 6.0, horizon * 0.8
        cover = 0.0 if weather == "clear" else (0.4 if weather == "partly cloudy" else 0.7)
        if weather in ("overcast", "rainy", "snowy", "foggy"):
            top = horizon * 0.7
        lamps = vehicle_lights = True
        balance = balance * np.array([1.08, 0.98, 0.9])
    wetness = dice.uniform(0.6, 1.0) if weather == "rainy" else 0.0
    snow = dice.uniform(0.55, 1.0) if weather == "snowy" else 0.0
    if weather == "foggy":
        fog_density = math.exp(dice.uniform(math.log(0.011), math.log(0.05)))
    elif weather == "rainy":
        fog_density = dice.uniform(0.002, 0.007)
    elif weather == "snowy":
        fog_density = dice.uniform(0.002, 0.009)
    fog = 0.9 * horizon
    if weather == "foggy":
        # Fog scatters the colour of the low sun away and hides the clouds.
        horizon = 0.65 * horizon.mean() + 0.35 * horizon
        fog, top, cover = horizon, 0.85 * horizon + 0.15 * top, 0.0
    if conditions.scene == "tunnel":
        ambient = np.array(
            dice.pick(((0.62, 0.50, 0.30), (0.55, 0.55, 0.52), (0.5, 0.55, 0.58)))
        ) * dice.uniform(0.5, 1.0)
        sun = np.zeros(3)
        fog, fog_density = ambient * 90, dice.uniform(0.001, 0.005)
        vehicle_lights = True
    scale = exposure * balance
    # Cameras expose for the street, so a bright sky is often blown out.
    sky_scale = scale * (dice.uniform(0.9, 1.5) if time == "daytime" else dice.uniform(0.8, 1.2))
    return Light(
        ambient=ambient * scale,
        sun=sun * scale,
        sun_direction=direction,
        fog_color=np.minimum(fog * sky_scale, 250.0),
        fog_density=fog_density,
        headlights=dice.uniform(0.14, 0.32) * exposure if time == "night" else 0.0,
        sky_top=top * sky_scale,
        sky_horizon=horizon * sky_scale,
        cloud=cloud * sky_scale,
        cloud_dark=cloud_dark * sky_scale,
        cloud_cover=cover,
        lamps=lamps,
        vehicle_lights=vehicle_lights,
        wetness=wetness,
        snow=snow,
        exposure=exposure,
        noise=dice.integer(1, 5) if time == "daytime" else dice.integer(2, 9),
    )
