"""What pyproject.toml cannot say: recipes, weights and records lie beside the package here and inside it in a wheel."""

from setuptools import find_packages, setup

BESIDE = {
    "featherweight.recipes": "recipes",
    "featherweight.weights_data": "weights",
    "featherweight.results_data": "results",
}

setup(
    packages=[*find_packages(include=["featherweight*"]), *BESIDE],
    package_dir=BESIDE,
    package_data={name: ["*.toml", "*.json", "*.safetensors"] for name in BESIDE}
    | {
        "featherweight.rules": ["sets/*.toml"],
        "featherweight.fused": ["*.c", "*.h"],
        "featherweight.demo": ["pictures/*"],
    },
)
