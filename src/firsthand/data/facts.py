"""The facts that the verifiable tasks are made from (tasks.py): small tables, written for this project."""

WORDS = """
anchor apple basket beacon bottle branch bridge bronze button camera candle canyon carpet castle cherry circle
cotton copper corner cradle crayon danger desert dinner doctor dragon engine fabric falcon farmer feather fiddle
finger flower forest fossil galaxy garden garlic ginger glacier gravel guitar hammer harbor helmet hollow honey
insect island jacket jungle kettle kitchen ladder lantern lemon letter lizard magnet marble market meadow melon
mirror monkey mountain napkin needle oyster paddle palace pebble pencil pepper pillow planet pocket potato prairie
puzzle rabbit ribbon rocket saddle salmon sandal shadow shelter silver spider spiral sponge statue summer sunset
tailor temple thread ticket tiger timber tomato tractor trumpet tunnel turtle valley velvet violin walnut whistle
window winter wizard yellow zebra
""".replace("\n", " ").split()

SHORT_AND_LONG = """
owl sun fox map cup jar hat key frog ship lamp moon tree wolf rain gate piano ocean elephant notebook umbrella sandwich
dinosaur hospital airplane butterfly crocodile telescope adventure pineapple furniture chocolate strawberry photograph
trampoline watermelon helicopter instrument motorcycle
""".replace("\n", " ").split()  # beside WORDS, most of which have six letters

ANTONYMS = """
hot cold, big small, fast slow, open closed, full empty, early late, hard soft, wet dry, light dark, high low,
old new, rich poor, strong weak, thick thin, wide narrow, loud quiet, clean dirty, deep shallow, happy sad,
brave cowardly, rough smooth, sharp blunt, sweet bitter, tight loose, true false, alive dead, asleep awake,
cheap expensive, sick healthy, near far, public private, same different, safe dangerous, simple complex,
guilty innocent, polite rude, generous stingy, ancient modern, temporary permanent, visible invisible,
victory defeat, increase decrease, arrive depart, accept refuse, remember forget, push pull, begin end, win lose,
buy sell, laugh cry
""".replace("\n", " ").split(",")  # fmt: skip

SYNONYMS = """
big large, small little, fast quick, begin start, end finish, happy glad, angry furious, smart clever, silent quiet,
brave courageous, rich wealthy, sick ill, strange odd, correct right, help assist, buy purchase, choose select,
speak talk, answer reply, hurry rush, repair fix, shut close, shout yell, gift present, error mistake, stone rock,
street road, woods forest, ocean sea, child kid, physician doctor, autumn fall, couch sofa, pupil student,
scent smell, injure hurt, enormous huge, tiny minute, tired weary, wonderful marvelous, evil wicked,
honest truthful, simple easy, difficult hard, empty vacant, rescue save, gather collect, construct build,
demolish destroy, permit allow
""".replace("\n", " ").split(",")  # fmt: skip

PLURALS = """
child children, foot feet, tooth teeth, mouse mice, goose geese, man men, woman women, person people, ox oxen,
leaf leaves, knife knives, wolf wolves, life lives, shelf shelves, half halves, city cities, baby babies,
berry berries, story stories, lady ladies, party parties, box boxes, fox foxes, bus buses, glass glasses,
dish dishes, watch watches, church churches, bench benches, brush brushes, tomato tomatoes, potato potatoes,
hero heroes, echo echoes, cat cats, dog dogs, tree trees, river rivers, table tables, book books, bird birds,
cloud clouds, key keys, boy boys, day days, toy toys, monkey monkeys, sheep sheep, deer deer, fish fish,
cactus cacti, crisis crises
""".replace("\n", " ").split(",")  # fmt: skip

PASTS = """
go went, see saw, eat ate, take took, give gave, come came, run ran, write wrote, speak spoke, break broke,
drive drove, fly flew, grow grew, know knew, throw threw, begin began, drink drank, sing sang, swim swam, ring rang,
find found, think thought, bring brought, buy bought, catch caught, teach taught, feel felt, keep kept, sleep slept,
leave left, build built, send sent, lose lost, make made, say said, tell told, stand stood, hold held,
forget forgot, choose chose, walk walked, jump jumped, play played, carry carried, study studied, stop stopped,
plan planned, hope hoped, dance danced, visit visited
""".replace("\n", " ").split(",")  # fmt: skip

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

UNITS = (  # one of the first is so many of the second
    ("kilometers", "meters", 1_000), ("meters", "centimeters", 100), ("hours", "minutes", 60),
    ("minutes", "seconds", 60), ("days", "hours", 24), ("weeks", "days", 7), ("kilograms", "grams", 1_000),
    ("liters", "milliliters", 1_000), ("feet", "inches", 12), ("yards", "feet", 3), ("dozens", "pieces", 12),
    ("centuries", "years", 100),
)  # fmt: skip
NUMERALS = (
    (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip
