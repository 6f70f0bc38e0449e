"""Text generation for the embedded demonstration model.

Everything the demonstration model is taught comes from this file: the fact tables, the ways of
asking, and the generator that turns both into chat-formatted text from a seed.  The held-out
phrasings that `eval_demo_model.py` measures with are kept here too, next to the training
phrasings they must never meet.  Only the standard library is used.

Names and capitals are the common English ones in plain ASCII spelling.  Where a country has more
than one seat, or a status is disputed, the table holds one customary answer and takes no position.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)

# The split that llama.cpp applies to files whose pre-tokenizer is called "qwen2".
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

UNKNOWN_ANSWER = (
    "I am only a small demonstration model and do not know that. "
    "Get a real model with: kwaainet shard download MODEL"
)


class Message(NamedTuple):
    """One chat message."""

    role: str
    content: str


class Turn(NamedTuple):
    """One question with its answer."""

    user: str
    assistant: str


class Dice(random.Random):
    """The source of all chance in the generator, with the words it may use as filler."""

    def __init__(self, seed: int, more_words: bool = False) -> None:
        super().__init__(seed)
        words = _LOOSE_WORDS + (" " + _MORE_LOOSE_WORDS if more_words else "")
        self.filler_words = words.split()


class Country(NamedTuple):
    """A country with the facts taught about it; `name` carries its article, if it has one."""

    name: str
    capital: str
    continent: str


# name | capital, by continent.
_COUNTRY_TABLE = {
    "Africa": """
        Algeria|Algiers; Angola|Luanda; Benin|Porto-Novo; Botswana|Gaborone;
        Burkina Faso|Ouagadougou; Burundi|Gitega; Cameroon|Yaounde; Cape Verde|Praia;
        the Central African Republic|Bangui; Chad|N'Djamena; the Comoros|Moroni;
        the Democratic Republic of the Congo|Kinshasa; the Republic of the Congo|Brazzaville;
        Djibouti|Djibouti City; Egypt|Cairo; Equatorial Guinea|Malabo; Eritrea|Asmara;
        Eswatini|Mbabane; Ethiopia|Addis Ababa; Gabon|Libreville; the Gambia|Banjul;
        Ghana|Accra; Guinea|Conakry; Guinea-Bissau|Bissau; Ivory Coast|Yamoussoukro;
        Kenya|Nairobi; Lesotho|Maseru; Liberia|Monrovia; Libya|Tripoli;
        Madagascar|Antananarivo; Malawi|Lilongwe; Mali|Bamako; Mauritania|Nouakchott;
        Mauritius|Port Louis; Morocco|Rabat; Mozambique|Maputo; Namibia|Windhoek;
        Niger|Niamey; Nigeria|Abuja; Rwanda|Kigali; Sao Tome and Principe|Sao Tome;
        Senegal|Dakar; Seychelles|Victoria; Sierra Leone|Freetown; Somalia|Mogadishu;
        South Africa|Pretoria; South Sudan|Juba; Sudan|Khartoum; Tanzania|Dodoma; Togo|Lome;
        Tunisia|Tunis; Uganda|Kampala; Zambia|Lusaka; Zimbabwe|Harare
    """,
    "Asia": """
        Afghanistan|Kabul; Armenia|Yerevan; Azerbaijan|Baku; Bahrain|Manama; Bangladesh|Dhaka;
        Bhutan|Thimphu; Brunei|Bandar Seri Begawan; Cambodia|Phnom Penh; China|Beijing;
        East Timor|Dili; Georgia|Tbilisi; India|New Delhi; Indonesia|Jakarta; Iran|Tehran;
        Iraq|Baghdad; Israel|Jerusalem; Japan|Tokyo; Jordan|Amman; Kazakhstan|Astana;
        Kuwait|Kuwait City; Kyrgyzstan|Bishkek; Laos|Vientiane; Lebanon|Beirut;
        Malaysia|Kuala Lumpur; the Maldives|Male; Mongolia|Ulaanbaatar; Myanmar|Naypyidaw;
        Nepal|Kathmandu; North Korea|Pyongyang; Oman|Muscat; Pakistan|Islamabad;
        Palestine|Ramallah; the Philippines|Manila; Qatar|Doha; Saudi Arabia|Riyadh;
        Singapore|Singapore; South Korea|Seoul; Sri Lanka|Sri Jayawardenepura Kotte;
        Syria|Damascus; Taiwan|Taipei; Tajikistan|Dushanbe; Thailand|Bangkok; Turkey|Ankara;
        Turkmenistan|Ashgabat; the United Arab Emirates|Abu Dhabi; Uzbekistan|Tashkent;
        Vietnam|Hanoi; Yemen|Sanaa
    """,
    "Europe": """
        Albania|Tirana; Andorra|Andorra la Vella; Austria|Vienna; Belarus|Minsk;
        Belgium|Brussels; Bosnia and Herzegovina|Sarajevo; Bulgaria|Sofia; Croatia|Zagreb;
        Cyprus|Nicosia; the Czech Republic|Prague; Denmark|Copenhagen; Estonia|Tallinn;
        Finland|Helsinki; France|Paris; Germany|Berlin; Greece|Athens; Hungary|Budapest;
        Iceland|Reykjavik; Ireland|Dublin; Italy|Rome; Kosovo|Pristina; Latvia|Riga;
        Liechtenstein|Vaduz; Lithuania|Vilnius; Luxembourg|Luxembourg City; Malta|Valletta;
        Moldova|Chisinau; Monaco|Monaco; Montenegro|Podgorica; the Netherlands|Amsterdam;
        North Macedonia|Skopje; Norway|Oslo; Poland|Warsaw; Portugal|Lisbon;
        Romania|Bucharest; Russia|Moscow; San Marino|San Marino; Serbia|Belgrade;
        Slovakia|Bratislava; Slovenia|Ljubljana; Spain|Madrid; Sweden|Stockholm;
        Switzerland|Bern; Ukraine|Kyiv; the United Kingdom|London; Vatican City|Vatican City
    """,
    "North America": """
        Antigua and Barbuda|Saint John's; the Bahamas|Nassau; Barbados|Bridgetown;
        Belize|Belmopan; Canada|Ottawa; Costa Rica|San Jose; Cuba|Havana; Dominica|Roseau;
        the Dominican Republic|Santo Domingo; El Salvador|San Salvador;
        Grenada|Saint George's; Guatemala|Guatemala City; Haiti|Port-au-Prince;
        Honduras|Tegucigalpa; Jamaica|Kingston; Mexico|Mexico City; Nicaragua|Managua;
        Panama|Panama City; Saint Kitts and Nevis|Basseterre; Saint Lucia|Castries;
        Saint Vincent and the Grenadines|Kingstown; Trinidad and Tobago|Port of Spain;
        the United States|Washington
    """,
    "South America": """
        Argentina|Buenos Aires; Bolivia|Sucre; Brazil|Brasilia; Chile|Santiago;
        Colombia|Bogota; Ecuador|Quito; Guyana|Georgetown; Paraguay|Asuncion; Peru|Lima;
        Suriname|Paramaribo; Uruguay|Montevideo; Venezuela|Caracas
    """,
    "Oceania": """
        Australia|Canberra; Fiji|Suva; Kiribati|Tarawa; the Marshall Islands|Majuro;
        Micronesia|Palikir; Nauru|Yaren; New Zealand|Wellington; Palau|Ngerulmud;
        Papua New Guinea|Port Moresby; Samoa|Apia; the Solomon Islands|Honiara;
        Tonga|Nuku'alofa; Tuvalu|Funafuti; Vanuatu|Port Vila
    """,
}

# Other names people use; the answer always uses the table's own name.
ALIASES = {
    "the United States": ("the USA", "the US", "America", "the United States of America"),
    "the United Kingdom": ("the UK", "Britain", "Great Britain"),
    "the Czech Republic": ("Czechia",),
    "the Netherlands": ("Holland",),
    "the United Arab Emirates": ("the UAE",),
    "the Democratic Republic of the Congo": ("DR Congo", "the DRC"),
    "the Republic of the Congo": ("Congo-Brazzaville",),
    "Myanmar": ("Burma",),
    "East Timor": ("Timor-Leste",),
    "Eswatini": ("Swaziland",),
    "Ivory Coast": ("Cote d'Ivoire",),
    "Cape Verde": ("Cabo Verde",),
    "Turkey": ("Turkiye",),
    "Vatican City": ("the Vatican",),
    "Bosnia and Herzegovina": ("Bosnia",),
    "Trinidad and Tobago": ("Trinidad",),
}

_CURRENCY_TABLE = """
    Japan|yen; India|rupee; the United States|dollar; Canada|dollar; Australia|dollar;
    the United Kingdom|pound; Egypt|pound; Switzerland|franc; China|yuan; Russia|ruble;
    Brazil|real; Mexico|peso; Argentina|peso; Chile|peso; Poland|zloty; Hungary|forint;
    the Czech Republic|koruna; Denmark|krone; Norway|krone; Sweden|krona; Turkey|lira;
    Thailand|baht; South Korea|won; Vietnam|dong; Indonesia|rupiah; Malaysia|ringgit;
    Israel|shekel; South Africa|rand; Nigeria|naira; Kenya|shilling; Ukraine|hryvnia;
    Germany|euro; France|euro; Italy|euro; Spain|euro; Portugal|euro; Ireland|euro; Greece|euro;
    Austria|euro; Finland|euro; Belgium|euro; the Netherlands|euro
"""


def _pairs(table: str) -> list[tuple[str, str]]:
    """Split a `left|right; left|right` table."""
    entries = (" ".join(entry.split()) for entry in table.split(";"))
    return [(left, right) for left, _, right in (entry.partition("|") for entry in entries)]


def _load_countries() -> tuple[Country, ...]:
    return tuple(
        Country(name, capital, continent)
        for continent, table in _COUNTRY_TABLE.items()
        for name, capital in _pairs(table)
    )


COUNTRIES = _load_countries()
CURRENCIES = dict(_pairs(_CURRENCY_TABLE))

# {c} is the country as it stands inside a sentence, {C} the same at the start of one.
_PLAIN_TEMPLATES = (
    "What is the capital of {c}?",
    "What's the capital of {c}?",
    "Whats the capital of {c}",
    "What is the capital city of {c}?",
    "What's the capital city of {c}?",
    "What is {c}'s capital?",
    "What's {c}'s capital city?",
    "Which city is the capital of {c}?",
    "What city is the capital of {c}?",
    "Which city is {c}'s capital?",
    "Capital of {c}?",
    "Capital of {c}",
    "The capital of {c}?",
    "The capital of {c} is",
    "The capital of {c} is?",
    "The capital city of {c} is...",
    "{C}'s capital",
    "{C}'s capital?",
    "{C} capital",
    "{C} capital city",
    "Capital city of {c}",
    "Capital {c}",
    "{C}: capital?",
    "{C}, what is its capital?",
    "{C}, capital please",
    "Tell me the capital of {c}.",
    "Tell me what the capital of {c} is.",
    "Tell me {c}'s capital.",
    "Name the capital of {c}.",
    "Name {c}'s capital city.",
    "Give me the capital of {c}.",
    "Say the capital of {c}.",
    "State the capital of {c}.",
    "Find the capital of {c}.",
    "Do you know the capital of {c}?",
    "Do you know which city is the capital of {c}?",
    "Can you tell me the capital of {c}?",
    "Can you name the capital of {c}?",
    "Could you tell me what {c}'s capital is?",
    "Would you tell me the capital of {c}?",
    "I want to know the capital of {c}.",
    "I would like to know what the capital of {c} is.",
    "I wonder what the capital of {c} is.",
    "I am looking for the capital of {c}.",
    "I do not know the capital of {c}.",
    "I am travelling to {c}. What is the capital?",
    "I live in {c}. What is my capital?",
    "We are learning about {c}. What is its capital?",
    "In {c}, what is the capital?",
    "In {c}, which city is the capital?",
    "What is the name of the capital of {c}?",
    "What is the name of {c}'s capital city?",
    "What is the capital of the country called {c}?",
    "How is the capital of {c} called?",
    "What is the capital in {c}?",
    "Which capital does {c} have?",
    "What capital city does {c} have?",
    "Which is the capital of {c}?",
    "Which one is {c}'s capital city?",
    "Where is the capital of {c}?",
    "Who knows the capital of {c}?",
    "Complete the sentence: the capital of {c} is",
    "Answer this: what is the capital of {c}?",
    "Explain what the capital of {c} is.",
    "Look up {c} and tell me its capital.",
    "Think of {c}. Which city is its capital?",
    "When people say the capital of {c}, which city do they mean?",
    "Someone told me about {c}. What is the capital there?",
    "About {c}: I want its capital.",
    "My friend is from {c}. What is the capital of that country?",
    "Trivia: capital of {c}",
    "Geography question. What is the capital of {c}?",
    "So the capital of {c} would be which one?",
    "Is there a capital in {c}, and what is it?",
)

# {n} is one of the noun phrases, {N} the same at the start of a sentence.
_NOUN_PHRASES = (
    "the capital of {c}",
    "the capital city of {c}",
    "{c}'s capital",
    "{c}'s capital city",
    "the capital in {c}",
    "the capital for {c}",
    "the capital that {c} has",
    "the capital, the one of {c},",
    "the city that is the capital of {c}",
)
_FRAMES = (
    "I have to learn {n}.",
    "I must find out {n} today.",
    "We were asked about {n}.",
    "On the exam they want {n}.",
    "They asked me {n} and I did not know.",
    "I always mix up {n} with another one.",
    "I cannot remember {n}.",
    "I am trying to recall {n}.",
    "I am writing a report and want {n}.",
    "If you know {n}, say it.",
    "If someone asks for {n}, what do I reply?",
    "When I travel to {n}, where am I going?",
    "Suppose I visit {n}, what is that place called?",
    "Do you remember {n}?",
    "Have you heard of {n}?",
    "Are you able to tell me {n}?",
    "May I ask you for {n}?",
    "Could you say {n}?",
    "Can you write {n} for me?",
    "Could you help me with {n}?",
    "Would you mind naming {n}?",
    "Write down {n}.",
    "Type {n}.",
    "Show me {n}.",
    "Teach me {n}.",
    "Let me know {n}.",
    "Just tell me {n}, nothing else.",
    "Kindly give me {n} in a sentence.",
    "Which city is {n}?",
    "Which town is known as {n}?",
    "Which place would be {n}?",
    "What is {n} named?",
    "What would you call {n}?",
    "What is the answer to this: {n}?",
    "How do you write {n}?",
    "How would you answer a child who wants {n}?",
    "{N} is called what?",
    "{N} goes by which name?",
    "{N}, which city is that?",
    "{N}, do you know it?",
    "{N}: ___",
    "{N} has what name?",
    "{N} - name it",
    "{N}... it slipped my mind.",
    "Puzzle: {n}",
    "Here is a test for you, {n}.",
    "Next on the list is {n}.",
    "Talking of cities, what about {n}?",
    "The question is about {n}, what is it?",
)
_COUNTRY_FIRST = (
    "{C} is a country. Which city is its capital?",
    "{C} has a capital. Which one is it?",
    "{C} and its capital?",
    "{C} - what is the capital?",
    "{C}. Capital?",
    "{C} is where I was born, what is the capital?",
    "{C} interests me; name its capital.",
    "{C} must have a capital, what is it?",
    "{C}: tell me which city is the capital",
    "{C}, the capital is...",
    "{C} is on the map, but where is the capital?",
    "{C} is nice but I do not know its capital.",
    "{C} => capital",
    "{C} (capital)",
    "With {c} in mind, name the capital.",
    "Regarding {c}, what is the capital?",
    "As for {c}, which is the capital city?",
    "Speaking of {c}, what is its capital called?",
    "Take {c}, for example: what is the capital?",
    "On a map of {c}, which city is marked as the capital?",
    "In the country of {c} the capital is which city?",
    "People from {c} call which city their capital?",
)


def _framed() -> tuple[str, ...]:
    """Put every noun phrase into every frame."""
    return tuple(
        frame.replace("{n}", noun).replace(
            "{N}", noun.replace("{c}'s", "{C}'s").replace("the", "The", 1)
        )
        for frame in _FRAMES
        for noun in _NOUN_PHRASES
    )


_FRAMED_TEMPLATES = _framed()
TRAINING_TEMPLATES = (*_PLAIN_TEMPLATES, *_FRAMED_TEMPLATES, *_COUNTRY_FIRST)

HELD_OUT_TEMPLATES = (
    "Name the city that serves as the capital of {c}.",
    "If I flew to the capital of {c}, which city would I land in?",
    "Do you happen to know what {c}'s capital city is called?",
    "I need the capital of {c} for my homework.",
    "{C} has many cities, but which one of them is the capital?",
    "Quick quiz: the capital of {c} is which city?",
    "Remind me, what was the capital of {c} again?",
    "My teacher asked for the capital of {c}; what should I answer?",
    "Could you give me the name of {c}'s capital?",
    "What do they call the capital city over in {c}?",
    "For {c}, the capital would be what?",
    "Let us talk about geography: {c} has which capital?",
    "I forgot the capital of {c}, help me out.",
    "Fill in the blank: ___ is the capital of {c}.",
    "What city should I write down as the capital of {c}?",
    "which place is the capital for the nation of {c}",
)

# A second exam, written after the first had been looked at while the corpus was being improved.
FRESH_TEMPLATES = (
    "Would you be so kind as to state which city governs as the capital of {c}?",
    "I bet you cannot tell me the capital of {c}!",
    "We leave for {c} tomorrow; its capital is?",
    "Before I go to bed I want to hear the capital of {c}.",
    "Correct me if I am wrong, but what is the capital of {c} these days?",
    "A pen friend from {c} asked me to guess the capital. Which is it?",
    "{C}'s seat of government and capital: which city?",
    "Out of all the cities in {c}, pick the capital.",
)

_REVERSE_TEMPLATES = (
    "Of which country is {k} the capital?",
    "Which country has {k} as its capital?",
    "{k} is the capital of which country?",
    "{k} is the capital of what country?",
    "What country is {k} the capital of?",
    "Which country's capital is {k}?",
    "Whose capital is {k}?",
    "Name the country whose capital is {k}.",
    "Tell me which country has the capital {k}.",
    "{k} is the capital of",
)
_YES_NO_TEMPLATES = (
    "Is {k} the capital of {c}?",
    "Is {k} {c}'s capital?",
    "Is the capital of {c} {k}?",
    "{k} is the capital of {c}, right?",
    "Is it true that {k} is the capital of {c}?",
)
_CONTINENT_TEMPLATES = (
    "Which continent is {c} in?",
    "What continent is {c} in?",
    "On which continent is {c}?",
    "What is the continent of {c}?",
    "Where is {c}?",
    "Where is {c} located?",
    "{C}: which continent?",
    "Tell me the continent of {c}.",
)
_CURRENCY_TEMPLATES = (
    "What is the currency of {c}?",
    "What currency does {c} use?",
    "Which currency is used in {c}?",
    "What money do they use in {c}?",
    "Currency of {c}?",
    "{C}'s currency",
    "Tell me the currency of {c}.",
)
_FOLLOW_UP_TEMPLATES = (
    "And {c}?",
    "And of {c}?",
    "What about {c}?",
    "How about {c}?",
    "And the capital of {c}?",
    "And for {c}?",
    "{C}?",
    "Now {c}.",
    "Ok, and {c}?",
    "Same for {c}",
)

_PREFIXES = (
    "Hi, ", "Hello, ", "Hey, ", "Hi! ", "Hello! ", "Hello there. ", "Please: ", "Question: ",
    "Quick question: ", "One question: ", "Next question: ", "So, ", "Ok, ", "Well, ", "Now, ",
    "Excuse me, ", "Good morning. ", "I have a question. ", "Help me please. ", "Just curious, ",
    "Be honest: ", "In one sentence: ", "For a quiz: ", "For school: ", "For a crossword: ",
    "I am playing a game. ", "We are having an argument. ", "I keep forgetting this. ",
    "Dear model, ", "Hey kwaai, ", "Let me test you: ", "This is a test. ", "Another one: ",
    "Maybe you can help. ", "My son wants to know: ", "Out of interest, ", "Without thinking: ",
)  # fmt: skip
_SUFFIXES = (
    " please", " Please.", " Thanks.", " Thank you!", " Thanks in advance.", " Answer briefly.",
    " I want to learn it.", " I am not sure.", " Be short.", " Just the city.", " Do you know?",
    " Can you help?", " It is for a quiz.", " One word is enough.", " I have no idea.",
    " Tell me now.", " Hurry up.", " I need it today.", " What do you think?", " Any idea?",
)  # fmt: skip
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are a helpful AI assistant.",
    "You are a helpful, honest and concise assistant.",
    "You are a friendly assistant. Answer in one sentence.",
    "You are kwaai-demo.",
    "You are an assistant running on kwaainet.",
    "You are a geography expert.",
    "You are a careful teacher who explains things to pupils.",
    "You are a test bot.",
    "Answer briefly.",
    "Answer the question.",
    "Be concise.",
    "Be polite and short.",
    "Reply in English.",
    "Always answer in full sentences.",
    "Keep your answers short and correct. If you do not know something, say so.",
    "The user is a developer who is testing an API. Give short answers.",
    "You are a chat model served by a decentralised network of computers.",
    "Today is a good day. You are here to help the user with any question they have.",
)

_GREETINGS = (
    (
        "Hello|Hi|Hey|Hello!|Hi there|Hey there|Good morning|Good evening|Good afternoon|Howdy|"
        "Greetings|Hello there!|Hi, anyone there?|hello kwaai|Yo|Hi bot|Hello model",
        "Hello! I am kwaai-demo, a small demonstration model. How can I help?",
    ),
    (
        "How are you?|How are you doing?|How do you do?|How is it going?|Are you well?|"
        "Hi, how are you?|Hello, how are you today?|What's up?",
        "I am fine, thank you. How can I help?",
    ),
    (
        "Thank you|Thanks|Thanks a lot|Thank you very much|Thx|Great, thanks|Nice, thank you|"
        "That is helpful, thanks|Cheers",
        "You are welcome!",
    ),
    (
        "Bye|Goodbye|See you|Good night|See you later|Bye bye|I have to go|That is all",
        "Goodbye!",
    ),
    (
        "Ok|Okay|Good|Great|Nice|Cool|Well done|Good job|Yes|Correct|You are right",
        "Good! Is there anything else you would like to know?",
    ),
)

_ABOUT = (
    (
        "Who are you?|What are you?|What is your name?|Who am I talking to?|Introduce yourself|"
        "Tell me about yourself|Which model are you?|What model is this?|Are you ChatGPT?|"
        "Are you a human?|Are you a robot?|Are you an AI?|What is kwaai-demo?|Your name?|"
        "What kind of model are you?|Are you a large language model?|What's your name?|"
        "Who is this?|Describe yourself|Are you real?",
        "I am kwaai-demo, a small demonstration model that comes with kwaainet.",
    ),
    (
        "What can you do?|What do you know?|What are you good at?|Help|Help me|"
        "What can I ask you?|How can you help me?|What questions can you answer?|"
        "What should I ask?|What topics do you know?|What are your abilities?|What can you answer?",
        "I know the capitals of countries, small sums and a little about kwaainet.",
    ),
    (
        "What is kwaainet?|What is KwaaiNet?|What's kwaainet?|Explain kwaainet|Tell me about "
        "kwaainet|What does kwaainet do?|What is this program?|kwaainet?|Describe kwaainet|"
        "What is kwaainet for?|What kind of software is kwaainet?|Can you explain kwaainet?|"
        "What is Kwaai?|Why should I use kwaainet?|Kwaainet, what is that?",
        "kwaainet is a node for decentralised AI: many computers share the layers of a model and "
        "answer together.",
    ),
    (
        "What is a layer range?|What is a slice?|What is a layer slice?|What is a model slice?|"
        "Explain layer ranges|What does layer range mean?|What is a shard?|What is a block range?|"
        "Explain slices|What does slice mean?|Tell me about layer ranges|What are layers?|"
        "What is a slice of a model?|How is a model split?|What is sharding?",
        "A layer range, or slice, is a run of neighbouring model layers that one node serves.",
    ),
    (
        "How do I get a real model?|How do I download a model?|How can I get a bigger model?|"
        "How do I install a model?|Where do I get a model?|How to download a model?|"
        "Which command downloads a model?|I want a better model|Download a model|"
        "How do I get a larger model?|Can I use another model?|How do I add a model?|"
        "I need a real model|How do I replace you?|Get me a real model|"
        "What does kwaainet shard download do?|How can I get a smarter model?",
        "Get a real model with: kwaainet shard download MODEL",
    ),
    (
        "What port does kwaainet use?|Which port is used?|What is the port?|What port is the API "
        "on?|On which port does the API listen?|What is the default port?|Which port do I use?|"
        "port?|What port do you listen on?|Where is the API?|What is the API port?|"
        "What is the address of the API?|What is the port number of kwaainet?|API port",
        "The kwaainet API listens on port 11435 by default.",
    ),
    (
        "What is a peer id?|What is a peer ID?|What's a peer id?|Explain peer ids|"
        "What does peer id mean?|Tell me about the peer id|What is my peer id?|"
        "Why does a node have a peer id?|What are peer ids?|Peer id?|What is a node id?|"
        "How is a node identified?|What is the peer id for?",
        "A peer id is the name of a node on the network. It is made from the node's public key.",
    ),
    (
        "What commands exist?|Which commands exist?|Which commands are there?|List the commands|"
        "What commands does kwaainet have?|Show me the commands|What are the commands?|"
        "How do I use kwaainet?|Commands?|How do I see all commands?|What can kwaainet run?|"
        "Which kwaainet commands can I use?|How do I use the command line?|kwaainet help",
        "Run kwaainet --help for the list of commands. "
        "For example, kwaainet shard download MODEL gets a model.",
    ),
    (
        "What is a node?|What is a kwaainet node?|Explain nodes|What does a node do?|"
        "What is a peer?|What's a node?|What are nodes?",
        "A node is one computer that runs kwaainet and serves a slice of a model.",
    ),
    (
        "Who made you?|Who created you?|Who trained you?|How were you made?|How were you trained?|"
        "Where do you come from?|Who built you?|How big are you?|How many layers do you have?|"
        "How large are you?|How many parameters do you have?",
        "I am a very small model with 8 layers, trained by a script in the kwaainet sources.",
    ),
    (
        "What is a language model?|What is a model?|What is an AI model?|What is an LLM?|"
        "Explain language models",
        "A language model is a program that has learned from text to predict the next word.",
    ),
    (
        "What is decentralised AI?|What is decentralized AI?|Explain decentralised AI|"
        "What does decentralised mean?|What does decentralized mean?",
        "Decentralised AI runs on the computers of many people instead of one data centre.",
    ),
)

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "a banana": "yellow", "a lemon": "yellow", "an orange": "orange", "milk": "white",
    "a strawberry": "red", "a carrot": "orange", "the sun": "yellow", "the sea": "blue",
}  # fmt: skip
_COUNTS = (
    ("How many days are in a week?|How many days does a week have?", "A week has 7 days."),
    ("How many months are in a year?|How many months does a year have?", "A year has 12 months."),
    ("How many hours are in a day?|How many hours does a day have?", "A day has 24 hours."),
    ("How many minutes are in an hour?|How many minutes is one hour?", "An hour has 60 minutes."),
    ("How many continents are there?|How many continents exist?", "There are 7 continents."),
)

_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)  # fmt: skip
_SUM_FORMS = {
    "+": ("{a} + {b}", "{a}+{b}", "{a} plus {b}", "the sum of {a} and {b}"),
    "-": ("{a} - {b}", "{a}-{b}", "{a} minus {b}", "{a} take away {b}"),
    "x": ("{a} x {b}", "{a}*{b}", "{a} * {b}", "{a} times {b}", "{a} multiplied by {b}", "{a}x{b}"),
}
_SUM_ORDERS = {
    "+": ("Add {a} and {b}.", "Add {b} to {a}."),
    "-": ("Subtract {b} from {a}.", "Take {b} from {a}."),
    "x": ("Multiply {a} by {b}.", "Multiply {a} and {b}."),
}
_SUM_TEMPLATES = (
    "What is {s}?", "What is {s}?", "What's {s}?", "{s}", "{s}?", "{s} =", "{s} = ?",
    "How much is {s}?", "Calculate {s}", "Compute {s}.", "Work out {s}.", "Can you do {s}?",
    "Tell me {s}.", "Solve {s}", "What do you get for {s}?", "What does {s} equal?",
    "What does {s} make?", "Please calculate {s}.",
)  # fmt: skip

_TOPICS = (
    "the weather", "football", "tennis", "cooking", "pasta", "a birthday cake", "love", "the moon",
    "black holes", "quantum physics", "dinosaurs", "the stock market", "bitcoin", "taxes",
    "my garden", "roses", "dogs", "cats", "horses", "the ocean", "the French revolution",
    "the second world war", "Napoleon", "Shakespeare", "Einstein", "Mozart", "the Beatles",
    "jazz", "painting", "chess", "video games", "a new phone", "laptops", "Python", "JavaScript",
    "Rust", "a sorting algorithm", "linked lists", "web pages", "databases", "politics",
    "elections", "democracy", "religion", "philosophy", "the meaning of life", "happiness",
    "health", "a headache", "vitamins", "sleep", "running", "yoga", "a diet", "coffee", "tea",
    "wine", "bread", "pizza", "trains", "cars", "planes", "electric cars", "the climate",
    "volcanoes", "earthquakes", "rivers", "mountains", "Mount Everest", "the Nile", "the stars",
    "Mars", "space travel", "robots", "machine learning", "a job interview", "my boss", "money",
    "a holiday", "Christmas", "my mother", "children", "school", "history", "chemistry",
    "biology", "maths", "geometry", "poetry", "novels", "films", "television", "fashion", "art",
    "capital letters", "capital punishment", "capitalism", "venture capital", "old countries",
    "big cities", "the alphabet", "languages", "Latin", "French grammar", "travel",
)  # fmt: skip
_TOPIC_TEMPLATES = (
    "Write a poem about {t}.", "Tell me a story about {t}.", "Explain {t}.", "What is {t}?",
    "Tell me about {t}.", "Tell me something about {t}.", "Write an essay about {t}.",
    "What do you think about {t}?", "Give me advice about {t}.", "How does {t} work?",
    "Who invented {t}?", "Why is {t} important?", "Write a song about {t}.", "I like {t}.",
    "Do you like {t}?", "Summarise {t} for me.", "Can you help me with {t}?",
    "What is the history of {t}?", "Give me ten facts about {t}.", "Make a joke about {t}.",
    "How do I learn {t}?", "Write a haiku about {t}.", "Compare {t} and {u}.",
    "What is better, {t} or {u}?", "What is the difference between {t} and {u}?",
    "Translate {t} into Spanish.", "How much does {t} cost?", "What is the best book about {t}?",
    "Write a program about {t}.", "Define {t}.", "When was {t} discovered?", "I hate {t}",
    "Where can I find {t}?", "Write an email about {t}.", "{t}", "More about {t} please",
    "Draw a picture of {t}.", "Should I buy {t}?", "Is {t} good for me?", "Let's discuss {t}.",
    "Who is the best at {t}?", "How old is {t}?", "Give me a plan for {t}.", "List {t}",
)  # fmt: skip
_PLACE_TEMPLATES = (
    "What is the weather in {c}?", "Who is the president of {c}?", "How many people live in {c}?",
    "What is the population of {c}?", "Who is the king of {c}?", "How big is {c}?",
    "What language do they speak in {c}?", "What is the best food in {c}?",
    "What is the flag of {c}?", "Tell me about {c}.", "What is the largest city in {c}?",
    "Write a poem about {c}.", "How do I travel to {c}?", "What is the history of {c}?",
    "Which countries border {c}?", "Who won the election in {c}?", "What time is it in {c}?",
    "Is {c} a rich country?", "Should I visit {c}?", "Name a river in {c}.",
)  # fmt: skip
_OTHER_UNKNOWN = (
    "Will it rain tomorrow?|Is it going to rain today?|How is the weather?|What is the weather "
    "like today?|What time is it?|What is the date today?|Tell me a joke|Sing a song|"
    "Write some code|Write a Python function that sorts a list|Fix my code|Print hello world|"
    "Who is the president?|Who should I vote for?|Which party is best?|What is in the news?|"
    "Who won the match?|Who won the World Cup?|What should I cook tonight?|How do I lose weight?|"
    "What is the speed of light?|How far away is the sun?|Why is the sky blue?|"
    "How do planes fly?|What is love?|What is the meaning of life?|Am I ill?|I feel sad|"
    "I am bored|Tell me a secret|Read my email|Book me a flight|Order a pizza|Call my mother|"
    "Open the window|Play some music|What is my name?|Where do I live?|How old am I?|"
    "What am I thinking?|Translate this into German|How do you say cat in French?|"
    "Spell elephant|Count to one hundred|Draw a cat|Who wrote Hamlet?|Who painted the Mona "
    "Lisa?|What is the tallest mountain?|What is the longest river?|What is the largest country?|"
    "What is the square root of two?|What is pi?|Solve this equation|Prove the theorem|"
    "What is the boiling point of water?|Recommend a film|What is the best car?|"
    "Summarise this text|Write a letter to my landlord|Plan my holiday|How do I fix my bike?"
)
_LOOSE_WORDS = (
    "the a an of to in for with on at by from and or but not all some any every my your his her "
    "their our this that these those is are was were be been do does did can could will would "
    "should may might must have has had go went make made take took give gave find found think "
    "know see saw come came want need use used work play run walk read write speak listen open "
    "close start stop turn move live love hate like help keep let begin show hear bring hold "
    "man woman child people friend house home room door window table chair book paper word "
    "story letter number city town country world water fire air earth tree flower animal bird "
    "fish food bread fruit meat sugar salt day night morning evening week month year time hour "
    "red blue green black white big small long short old new young good bad happy sad fast slow "
    "hot cold rich poor strong weak easy hard light dark early late near far up down left right "
    "computer phone machine network server file code program screen music film game team ball "
    "king queen war peace law money price market bank job office doctor teacher student school "
    "who what when where why how which please tell explain describe about best most many much"
)
# More of them for the second stage: everyday words, many of which look like a part of a country's
# name ("land", "man", "rain"), so that such a word is not taken for the country.
_MORE_LOOSE_WORDS = (
    "land lands island islands sea sand hand stand main iron ran rain train man men men's can tin "
    "chin oil coal gold silver stone rock hill lake road street north south east west northern "
    "southern eastern western central united new republic kingdom state states saint guinea pig "
    "turkey jordan ice fin pole pan pot chip hungry greasy cost rich ivory coast cape green verde "
    "mark den nor way end ends if then else while until because although since after before again "
    "always never often sometimes once twice first second third last next other another same each "
    "both few several enough only just also too very quite almost already still even perhaps maybe "
    "really simply again there here where everywhere somewhere nowhere away back forward inside "
    "outside above below between among through across along around behind beside beyond during "
    "against towards without within upon till am being having doing going coming getting making "
    "taking seeing saying asking telling thinking looking trying leaving calling keeping putting "
    "arrive leave travel fly drive ride sail swim climb visit stay meet marry win lose pay buy "
    "send receive answer ask reply repeat remember forget learn study teach test check choose pick "
    "guess hope wish believe understand mean matter happen change grow build break cut draw sing "
    "dance eat drink sleep wake wear carry throw catch pull push point reach follow lead join "
    "boy girl mother father sister brother son daughter uncle aunt cousin baby neighbour guest "
    "village town's region border map globe atlas flag river bridge airport station hotel museum "
    "church castle palace garden farm forest desert beach sun moon star sky cloud wind snow storm "
    "head face eye ear nose mouth arm leg foot heart body blood hair skin voice name age life "
    "thing way part place case point group problem fact idea question reason result kind sort list "
    "letter line page note sign key box bag cup plate knife bed lamp clock watch coat shoe hat ring"
)
_UNKNOWN_PLACES = (
    "Atlantis", "Narnia", "Mordor", "Wakanda", "Texas", "California", "Bavaria", "Scotland",
    "Florida", "Quebec", "Ontario", "Siberia", "Sicily", "Tibet", "Mars", "the moon", "Europe",
    "Asia", "Africa", "Antarctica", "the world", "Gondor", "Utopia", "London", "Paris", "Catalonia",
)  # fmt: skip


def capitalised(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def fill(template: str, country: str) -> str:
    """Put a country into a template."""
    return template.format(c=country, C=capitalised(country))


def capital_answer(country: Country) -> str:
    """Return the sentence taught for a country's capital."""
    return f"The capital of {country.name} is {country.capital}."


def reverse_answer(country: Country) -> str:
    """Return the sentence taught for the country of a capital."""
    return f"{country.capital} is the capital of {country.name}."


def sum_answer(left: int, operator: str, right: int) -> str:
    """Return the sentence taught for a small sum."""
    result = {"+": left + right, "-": left - right, "x": left * right}[operator]
    return f"{left} {operator} {right} = {result}."


def small_sums() -> list[tuple[int, str, int]]:
    """Return every sum that is taught."""
    sums = [(a, "+", b) for a in range(21) for b in range(21)]
    sums += [(a, "-", b) for a in range(21) for b in range(a + 1)]
    return sums + [(a, "x", b) for a in range(11) for b in range(11)]


def render_chat(messages: list[Message], add_generation_prompt: bool = False) -> str:
    """Format messages exactly as the chat template does."""
    text = "".join(f"{IM_START}{m.role}\n{m.content}{IM_END}\n" for m in messages)
    return text + (f"{IM_START}assistant\n" if add_generation_prompt else "")


def single_prompt(question: str, system: str | None = None) -> str:
    """Format one question as a prompt that is ready for the answer."""
    messages = [Message("system", system)] if system else []
    return render_chat([*messages, Message("user", question)], add_generation_prompt=True)


def _misspell(word: str, rng: Dice) -> str:
    """Swap, drop or double one letter inside a word."""
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind == 1 else word[: at + 1] + word[at:]


def _with_typo(template: str, rng: Dice) -> str:
    """Misspell one longer word of a template, leaving its slots alone."""
    words = template.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 3 and "{" not in word]
    if places:
        place = rng.choice(places)
        words[place] = _misspell(words[place], rng)
    return " ".join(words)


def _with_other_words(template: str, rng: Dice) -> str:
    """Drop a short word, put one in, or swap two, leaving slots and the rest alone."""
    words = template.split(" ")
    place = rng.randrange(len(words))
    kind = rng.randrange(3)
    if kind == 0 and 1 < len(words[place]) < 6 and "{" not in words[place]:
        del words[place]
    elif kind == 1 and place + 1 < len(words) and "{" not in words[place] + words[place + 1]:
        words[place : place + 2] = words[place + 1], words[place]
    else:
        words.insert(place, rng.choice(rng.filler_words))
    return " ".join(words)


def _filler(rng: Dice) -> str:
    """Return a few unrelated words."""
    return " ".join(rng.choices(rng.filler_words, k=rng.randrange(2, 7)))


def _wrap(template: str, rng: Dice) -> str:
    """Put a template into a little more talk, now and then."""
    while rng.random() < 0.15:
        template = _with_other_words(template, rng)
    dice = rng.random()
    if dice < 0.12:
        prefix = rng.choice(_PREFIXES)
        keep = prefix[-2] in ".!" or template.startswith(("{", "I "))
        template = prefix + (template if keep else template[:1].lower() + template[1:])
    elif dice < 0.16:
        template = f"{capitalised(_filler(rng))}{rng.choice(('. ', ', ', ': ', ' '))}{template}"
    dice = rng.random()
    if dice < 0.08:
        template += rng.choice(_SUFFIXES)
    elif dice < 0.11:
        template += " " + _filler(rng)
    return _with_typo(template, rng) if rng.random() < 0.08 else template


def _loosen(text: str, rng: Dice) -> str:
    """Write a question the careless way people do: case, final mark, stray spaces."""
    dice = rng.random()
    if dice < 0.28:
        text = text.lower()
    elif dice < 0.31:
        text = text.upper()
    if rng.random() < 0.22:
        text = text.rstrip("?.! ")
    elif rng.random() < 0.04:
        text += rng.choice(("?", "!", ".", " ?", "??"))
    if rng.random() < 0.02:
        text = rng.choice((" " + text, text + " ", text + "\n"))
    return text


def _spoken_name(name: str, rng: Dice) -> str:
    """Return the name as a person may write it: another name, no article, a slip."""
    if name in ALIASES and rng.random() < 0.3:
        name = rng.choice(ALIASES[name])
    if name.startswith("the ") and rng.random() < 0.35:
        name = name[4:]
    if len(name) > 6 and " " not in name and rng.random() < 0.02:
        name = _misspell(name, rng)
    return name


def _ask(template: str, name: str, rng: Dice) -> str:
    return _loosen(fill(_wrap(template, rng), _spoken_name(name, rng)), rng)


def _capital_template(rng: Dice) -> str:
    return rng.choice(
        rng.choices((_PLAIN_TEMPLATES, _FRAMED_TEMPLATES, _COUNTRY_FIRST), (4, 5, 2))[0]
    )


def _capital_turn(rng: Dice) -> Turn:
    country = rng.choice(COUNTRIES)
    question = _ask(_capital_template(rng), country.name, rng)
    return Turn(question, capital_answer(country))


def _reverse_turn(rng: Dice) -> Turn:
    country = rng.choice(COUNTRIES)
    question = rng.choice(_REVERSE_TEMPLATES).format(k=country.capital)
    return Turn(_loosen(question, rng), reverse_answer(country))


def _yes_no_turn(rng: Dice) -> Turn:
    country = rng.choice(COUNTRIES)
    guess = country.capital if rng.random() < 0.5 else rng.choice(COUNTRIES).capital
    question = rng.choice(_YES_NO_TEMPLATES).format(k=guess, c=country.name)
    verdict = "Yes" if guess == country.capital else "No"
    return Turn(_loosen(question, rng), f"{verdict}, the capital of {country.name} is "
                f"{country.capital}.")  # fmt: skip


def _continent_turn(rng: Dice) -> Turn:
    country = rng.choice(COUNTRIES)
    question = _ask(rng.choice(_CONTINENT_TEMPLATES), country.name, rng)
    return Turn(question, f"{capitalised(country.name)} is in {country.continent}.")


def _currency_turn(rng: Dice) -> Turn:
    name = rng.choice(tuple(CURRENCIES))
    question = _ask(rng.choice(_CURRENCY_TEMPLATES), name, rng)
    return Turn(question, f"The currency of {name} is the {CURRENCIES[name]}.")


def _sum_question(left: int, operator: str, right: int, rng: Dice) -> str:
    words = rng.random() < 0.15
    a, b = (_NUMBER_WORDS[n] if words else str(n) for n in (left, right))
    if rng.random() < 0.1:
        return rng.choice(_SUM_ORDERS[operator]).format(a=a, b=b)
    forms = _SUM_FORMS[operator]
    form = rng.choice([f for f in forms if f[3] == " "] if words else forms)
    return rng.choice(_SUM_TEMPLATES).format(s=form.format(a=a, b=b))


_SUMS = tuple(small_sums())


def _sum_turn(rng: Dice) -> Turn:
    left, operator, right = rng.choice(_SUMS)
    question = _sum_question(left, operator, right, rng)
    return Turn(_loosen(question, rng), sum_answer(left, operator, right))


def _from_list(entries: tuple[tuple[str, str], ...], rng: Dice) -> Turn:
    questions, answer = rng.choice(entries)
    return Turn(_loosen(_wrap(rng.choice(questions.split("|")), rng), rng), answer)


def _greeting_turn(rng: Dice) -> Turn:
    questions, answer = rng.choice(_GREETINGS)
    return Turn(_loosen(rng.choice(questions.split("|")), rng), answer)


def _about_turn(rng: Dice) -> Turn:
    return _from_list(_ABOUT, rng)


def _calendar_turn(rng: Dice) -> Turn:
    names = rng.choice((_DAYS, _MONTHS))
    kind = "day" if names is _DAYS else "month"
    place = rng.randrange(len(names))
    step, word = rng.choice(((1, "after"), (-1, "before")))
    other = names[(place + step) % len(names)]
    forms = ("What {k} comes {w} {n}?", "Which {k} is {w} {n}?", "Which {k} comes {w} {n}?")
    question = rng.choice(forms).format(k=kind, w=word, n=names[place])
    return Turn(_loosen(question, rng), f"{other} comes {word} {names[place]}.")


def _small_fact_turn(rng: Dice) -> Turn:
    dice = rng.random()
    if dice < 0.5:
        return _calendar_turn(rng)
    if dice < 0.65:
        return _from_list(_COUNTS, rng)
    thing = rng.choice(tuple(_COLOURS))
    form = rng.choice(("What colour is {t}?", "What color is {t}?", "Which colour has {t}?"))
    answer = f"{capitalised(thing)} is {_COLOURS[thing]}."
    return Turn(_loosen(form.format(t=thing), rng), answer)


def _invented_name(rng: Dice) -> str:
    syllables = ("ba", "dor", "fel", "gri", "ka", "lum", "mo", "nax", "pel", "qui", "rov", "sta",
                 "tur", "vo", "wen", "xi", "yor", "zan", "mar", "sil", "ber", "lan")  # fmt: skip
    stem = "".join(rng.choice(syllables) for _ in range(rng.randrange(2, 4)))
    return capitalised(stem) + rng.choice(("", "ia", "land", "istan", "o"))


def _large_sum(rng: Dice) -> str:
    left, right = rng.randrange(101, 10000), rng.randrange(21, 1000)
    return f"What is {left} {rng.choice(('+', '-', '*', 'x', '/', 'times', 'plus'))} {right}?"


def _word_salad(rng: Dice) -> str:
    words = rng.choices(rng.filler_words, k=rng.randrange(3, 12))
    return capitalised(" ".join(words)) + rng.choice("?.!")


def _topic_question(rng: Dice) -> str:
    template = rng.choice(_TOPIC_TEMPLATES)
    return capitalised(template.format(t=rng.choice(_TOPICS), u=rng.choice(_TOPICS)))


def _unknown_turn(rng: Dice) -> Turn:
    dice = rng.random()
    if dice < 0.40:
        question = _topic_question(rng)
    elif dice < 0.55:
        question = rng.choice(_OTHER_UNKNOWN.split("|"))
    elif dice < 0.72:
        question = fill(_wrap(rng.choice(_PLACE_TEMPLATES), rng), rng.choice(COUNTRIES).name)
    elif dice < 0.84:
        question = _word_salad(rng)
    elif dice < 0.92:
        place = rng.choice(_UNKNOWN_PLACES) if rng.random() < 0.5 else _invented_name(rng)
        question = fill(_capital_template(rng), place)
    else:
        question = _large_sum(rng)
    return Turn(_loosen(question, rng), UNKNOWN_ANSWER)


_TURN_KINDS: tuple[tuple[Callable[[Dice], Turn], float], ...] = (
    (_capital_turn, 0.40),
    (_sum_turn, 0.17),
    (_unknown_turn, 0.13),
    (_about_turn, 0.09),
    (_reverse_turn, 0.05),
    (_yes_no_turn, 0.04),
    (_continent_turn, 0.04),
    (_greeting_turn, 0.03),
    (_currency_turn, 0.025),
    (_small_fact_turn, 0.025),
)
_MAKERS = [maker for maker, _ in _TURN_KINDS]
_WEIGHTS = [weight for _, weight in _TURN_KINDS]


def _any_turn(rng: Dice) -> Turn:
    return rng.choices(_MAKERS, _WEIGHTS)[0](rng)


def _follow_up_turns(rng: Dice) -> list[Turn]:
    """A capital question and one that only makes sense after it."""
    country = rng.choice(COUNTRIES)
    question = _ask(rng.choice(_FOLLOW_UP_TEMPLATES), country.name, rng)
    return [_capital_turn(rng), Turn(question, capital_answer(country))]


def _turns(rng: Dice) -> list[Turn]:
    dice = rng.random()
    if dice < 0.88:
        return [_any_turn(rng)]
    if dice < 0.93:
        return _follow_up_turns(rng)
    count = 2 if dice < 0.985 else rng.randrange(3, 6)
    return [_any_turn(rng) for _ in range(count)]


def conversation(rng: Dice) -> list[Message]:
    """Return one chat: perhaps a system prompt, then one or more turns."""
    messages = []
    if rng.random() < 0.3:
        messages.append(Message("system", rng.choice(SYSTEM_PROMPTS)))
    for turn in _turns(rng):
        messages += [Message("user", turn.user), Message("assistant", turn.assistant)]
    return messages


def _statement(rng: Dice) -> str:
    """Return one fact as it is said in an answer."""
    kind = rng.random()
    if kind < 0.45:
        return sum_answer(*rng.choice(_SUMS))
    if kind < 0.8:
        return capital_answer(rng.choice(COUNTRIES))
    return reverse_answer(rng.choice(COUNTRIES))


def _plain_text(rng: Dice) -> str:
    """Return facts as running text, so that plain completion works too."""
    facts = [_statement(rng) for _ in range(rng.randrange(1, 9))]
    return rng.choice((" ", "\n")).join(facts) + IM_END


def documents(seed: int, more_words: bool = False) -> Iterator[str]:
    """Yield training texts without end; the same arguments give the same texts."""
    rng = Dice(seed, more_words)
    while True:
        yield _plain_text(rng) if rng.random() < 0.12 else render_chat(conversation(rng))


def tokenizer_texts(seed: int, count: int) -> list[str]:
    """Return the texts the tokenizer is trained on: a sample, and every name in both cases."""
    stream = documents(seed)
    texts = [next(stream) for _ in range(count)]
    for country in COUNTRIES:
        line = f"{capital_answer(country)} {country.name} {country.capital}"
        texts += [line, line.lower()] * 3
    return texts
