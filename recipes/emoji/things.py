"""The everyday things that the transformer learns to name and draw: few enough to be seen often within two hours.

The image tokenizer learns every emoji. ``ANIMALS``, ``FOOD`` and ``TRAVEL`` are everyday things of Unicode's groups 3,
4 and 5. ``WITHHELD`` are all things of these groups of which the splits withhold a style, except clock faces, so that
the measured things are not selected by hand.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(text.split()).split("; "))


ANIMALS = _names(
    """
    ant; bat; bear; bird; butterfly; cactus; camel; cat; cherry blossom; chicken; cow; crab; crocodile; deer;
    dog; dolphin; donkey; dove; eagle; elephant; evergreen tree; flamingo; four leaf clover; fox; frog; giraffe;
    goat; gorilla; hamster; hedgehog; hippopotamus; honeybee; horse; jellyfish; kangaroo; koala; lady beetle;
    lion; lizard; lobster; maple leaf; mouse; octopus; owl; palm tree; panda; parrot; paw prints; peacock;
    penguin; pig; polar bear; rabbit; raccoon; rhinoceros; rooster; rose; sauropod; scorpion; seal; shark;
    shrimp; snail; snake; spider; squid; sunflower; swan; t-rex; tulip; turtle; unicorn; whale; wolf; zebra
    """
)

FOOD = _names(
    """
    avocado; bacon; banana; beer mug; bread; broccoli; candy; carrot; cheese wedge; cherries; chocolate bar;
    coconut; cookie; croissant; cucumber; cupcake; doughnut; ear of corn; egg; french fries; garlic; grapes;
    green apple; hamburger; honey pot; hot beverage; hot dog; hot pepper; kiwi fruit; lemon; lollipop; mango;
    melon; onion; pancakes; peach; pear; pie; pineapple; pizza; popcorn; potato; poultry leg; pretzel; red
    apple; rice ball; sandwich; soft ice cream; spaghetti; strawberry; sushi; taco; tangerine; teapot; tomato;
    waffle; watermelon; wine glass
    """
)

TRAVEL = _names(
    """
    airplane; alarm clock; ambulance; anchor; automobile; bicycle; bus; castle; cloud; cloud with rain; crescent
    moon; droplet; ferris wheel; fire; fire engine; full moon; helicopter; high voltage; house; locomotive;
    luggage; motor scooter; motorcycle; mountain; police car; racing car; rainbow; ringed planet; rocket;
    sailboat; snowflake; snowman; star; sun; tent; tornado; tractor; train; umbrella; volcano; water wave
    """
)

WITHHELD = _names(
    """
    bank; birthday cake; bison; closed umbrella; cloud with lightning and rain; cup with straw; curry rice;
    cyclone; derelict house; dog face; dragon; duck; eggplant; fish; globe showing americas; goose; herb;
    hourglass not done; hyacinth; ice cream; mantelpiece clock; metro; minibus; monkey face; monorail; mount
    fuji; mushroom; new moon face; oncoming police car; pickup truck; rat; rosette; shallow pan of food;
    shortcake; spiral shell; stop sign; suspension railway; tamale; taxi; tiger; wind face
    """
)

THINGS = ANIMALS | FOOD | TRAVEL | WITHHELD
