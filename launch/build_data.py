"""Build a dataset: python launch/build_data.py recipe=NAME output=DIR [key=value ...]"""

from pathlib import Path

from derta.config.command import Command
from derta.config.data import BuildRunConfig
from derta.config.shipped import RECIPES


def run(config: BuildRunConfig) -> None:
    from derta.data.build import build
    from derta.data.manifest import as_table
    from derta.data.recipe import load_recipe, pin_revision

    recipe = load_recipe(config.recipe, RECIPES)
    if config.revision:
        pin_revision(recipe, config.revision)
    output = Path(config.output)
    result = build(recipe, output, workers=config.workers, overwrite=config.overwrite, limit=config.limit)
    print(f"{'already built' if result.already_built else 'built'}: {output}")
    print(as_table(result.manifest))


ABOUT = f"{__doc__}\n\nRecipes: {', '.join(sorted(path.stem for path in RECIPES.glob('*.yaml')))}"
main = Command("build_data", BuildRunConfig, run, ABOUT)

if __name__ == "__main__":
    main()
