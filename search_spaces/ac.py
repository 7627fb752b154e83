"""The search space of activation clustering. Its presets are the undefended model's, which it then shares."""

from search_spaces.conditions import where
from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, Int, SearchSpace

AC_SPACE = SearchSpace(
    name="ac",
    defense="ac",
    ranges={
        "reducer": Choice(("pca", "ica", "none"), "the paper's and the published codes' three ways to project"),
        "dims": Int(
            2,
            50,
            "poison lies along few directions; with more, noise outweighs them",
            log=True,
            when=where("reducer", "pca", "ica"),
        ),
        "clusters": Choice((2, 3), "a third cluster takes in outliers that would pass for poison"),
        "rule": Choice(("smaller", "share", "share_and_silhouette"), "from flagging in every label to in few"),
        "max_share": Float(
            0.2,
            0.5,
            "poison's share of its label, which a defender can only guess",
            when=where("rule", "share", "share_and_silhouette"),
        ),
        "min_silhouette": Float(
            0.05,
            0.3,
            "clean labels split at about 0.1, a strong trigger's at 0.3 and more",
            when=where("rule", "share_and_silhouette"),
        ),
    },
    presets=NO_DEFENSE_SPACE.presets,
)
