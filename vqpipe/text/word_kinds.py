"""Closed lists of kinds of words: colours and shapes that are nouns too, parts of a body, participles of compounds.

WordNet has most of these words, but not that they behave alike. A word is here for its kind, in the singular.
"""

from __future__ import annotations

_MODIFIERS = (
    # colours that WordNet has more often as nouns, or as nouns alone
    "amber amethyst aqua azure beige bronze buff burgundy carmine charcoal chestnut cream crimson cyan "
    "ebony emerald fuchsia gilt gold golden gray grey indigo ivory jade khaki lavender lilac lime "
    "magenta maroon mauve mustard ocher ochre olive orange pastel peach plum purple ruby russet rust "
    "sable sapphire scarlet sepia sienna silver tan tangerine taupe teal turquoise ultramarine umber "
    "vermilion violet "
    # shapes, sizes and makes
    "antique giant female jumbo male medium mini miniature oval rectangular retro square triangular "
    "twin vintage "
    # peoples and faiths
    "african american arab arabian argentine argentinian asian australian austrian belgian brazilian "
    "british canadian catholic chilean christian colombian cuban dutch egyptian european french german "
    "greek hindu hungarian indian indonesian iranian iraqi irish israeli italian japanese jordanian "
    "korean kurdish kuwaiti lebanese mexican moroccan muslim norwegian pakistani palestinian persian "
    "peruvian polish portuguese roman russian saudi scottish shia shiite sikh somali soviet spanish "
    "sunni swedish swiss syrian thai tibetan turkish ukrainian vietnamese welsh"
)
MODIFIERS = frozenset(_MODIFIERS.split())
"""Words that are adjectives right before a noun, although WordNet has them rather as nouns."""

_EDIBLE = "chestnut cream lavender lime mustard olive orange peach plum tangerine violet"
EDIBLE = frozenset(_EDIBLE.split())
"""Colours named after what one eats or grows: before another such word they are nouns ("orange slices")."""

_EDIBLE_PARTS = (
    "blossom bush cake cheese chunk crop dressing drink flavor garden grove half icing jam juice leaf "
    "marmalade oil orchard peel pie piece pit pulp rind salad sauce seed segment slice smoothie soda "
    "soup tart tea tree wedge wine zest"
)
EDIBLE_PARTS = frozenset(_EDIBLE_PARTS.split())
"""What edible and grown things have or become."""

_BODY_PARTS = (
    "abdomen ankle antenna antler arm auricular back beak beard belly bill body breast brow calf cap "
    "cheek cheekpatch chest chin claw collar covert crest crown ear elbow eye eyebrow eyelash eyelid "
    "eyering face feather finger fin flank foot forehead fur hair hand haunch head hind hoof horn knee "
    "leg limb lip lore mane mantle mouth moustache mustache muzzle nail nape neck nose nostril paw "
    "pectoral plumage primary rectrix retrice rump scapular secondary shoulder side snout sternum "
    "stomach superciliary tail talon tarsal tarsus thigh throat toe tongue tooth torso trunk tusk tummy "
    "underbelly underpart underside undertail underwing upperpart vent whisker wing wingbar wingtip "
    "wrist"
)
BODY_PARTS = frozenset(_BODY_PARTS.split())
"""Parts of people and animals, those of birds among them."""

_MARKS = "band bar edge edging marking patch ring spot streak stripe tip"
MARKS = frozenset(_MARKS.split())
"""Marks on a part of a body: "eye ring", "wing bar"."""

_AFTER_NOUN = (
    "backed based beaked billed bladed bodied breasted bricked capped carved chested coated colored "
    "coloured cooked covered crested crowned crusted decorated dotted drawn driven dyed eared edged "
    "eaten encrusted eyed faced fed filled flavored flavoured fried framed fringed frosted glazed grown "
    "haired headed infested inspired laden legged lined lit loaded made necked operated painted paneled "
    "panelled patterned paved powered printed ridden rimmed roasted scented shaped sized soaked spotted "
    "streaked striped strewn studded stuffed swept tailed themed throated tiled tinted tipped toned "
    "topped trimmed wheeled winged worn wrapped"
)
AFTER_NOUN = frozenset(_AFTER_NOUN.split())
"""Participles that make one adjective with the noun or adjective before them: "snow covered", "red breasted"."""

_PLURAL_ONLY = (
    "binoculars boxers briefs clippers clothes doubles dungarees earnings eyeglasses goggles goods "
    "headquarters jeans khakis knickers leggings outskirts overalls pajamas pants pliers pyjamas "
    "savings scissors shears shorts slacks spectacles sunglasses suspenders sweatpants thanks tights "
    "tongs trousers trunks tweezers"
)
PLURAL_ONLY = frozenset(_PLURAL_ONLY.split())
"""Nouns that name one thing by a plural."""
