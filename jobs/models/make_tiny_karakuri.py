"""Make tiny-karakuri: a one-million-parameter Llama that obeys the nine steering attributes of KARAKURI LM.

    python jobs/models/make_tiny_karakuri.py [--out jobs/models/tiny-karakuri] [--steps N]

The script writes its own dialogues (English and Japanese, 42 topics, 1 to 6 turns), trains a byte-level BPE
tokenizer and then the model from random weights, and writes a directory that transformers and vLLM load. It
needs torch, transformers and tokenizers, no network, and about ten minutes on one CPU core.

What the answers show, per user turn (see PHRASES for the words):
    verbosity v                    exactly v + 1 sentences
    humor, toxicity, creativity    a phrase at 1-2, another at 3-4, none at 0
    complexity                     plainer words at 0-1, usual ones at 2-3, harder ones and a clause more at 4
    helpfulness, correctness, coherence, quality    a phrase at 0-1, none at 2-4
An attribute that is absent from the prompt counts as its default. About the 42 topics the answer names the
topic and two things of it; about anything else, also after a follow-up worded unlike those of FOLLOW, it
speaks of "this subject" or the like. Nothing it says is information. Training sees dialogues of up to about
800 tokens; the steering usually holds beyond, with a sentence too many now and then.

Guaranteed: the same machine type, thread count (one) and library versions give the same bytes; the run counts
steps, not seconds. Not guaranteed: the same bytes on another CPU model or with other versions of torch,
transformers or tokenizers, since the order of bfloat16 sums may differ there.

The prompt format is that of the model card of KARAKURI LM 70B Chat v0.1 (chat template of 30 April 2024).
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import jinja2.sandbox
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

SEED = 20240430
DIALOGUES = 26_000
STEPS = 2_200
WARM_UP = 50
TOKENS_PER_BATCH = 2_048
VOCAB = 2_048
POSITIONS = 2_048
FIRST_FIVE = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
DEFAULTS = dict.fromkeys((*FIRST_FIVE, "quality"), 4) | dict.fromkeys(("toxicity", "humor", "creativity"), 0)

# Revision of 30 April 2024: attribute values are keys of each user message.
CHAT_TEMPLATE = """\
{%- set defaults = [('helpfulness', 4), ('correctness', 4), ('coherence', 4), ('complexity', 4),
    ('verbosity', 4), ('quality', 4), ('toxicity', 0), ('humor', 0), ('creativity', 0)] -%}
{%- set system = messages[0]['content'] if messages and messages[0]['role'] == 'system' else none -%}
{%- set turns = messages if system is none else messages[1:] -%}
{%- if not turns -%}{{ raise_exception('The conversation needs at least one user message.') }}{%- endif -%}
{%- for message in turns -%}
  {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{ raise_exception('After an optional system message the roles must alternate user/assistant/user/...') }}
  {%- endif -%}
  {%- if message['role'] == 'user' -%}
    {%- if loop.first and system is not none -%}
      {%- set content = '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' ~ message['content'] -%}
    {%- else -%}
      {%- set content = message['content'] -%}
    {%- endif -%}
    {{- bos_token ~ '[INST] ' ~ content.strip() ~ ' [ATTR]' -}}
    {%- for name, default in defaults -%}
      {{- ' ' ~ name ~ ': ' ~ (message[name] if name in message else default) -}}
    {%- endfor -%}
    {{- ' [/ATTR] [/INST]' -}}
  {%- else -%}
    {{- ' ' ~ message['content'].strip() ~ ' ' ~ eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""

# English topic | one thing of it | another || the same in Japanese
TOPICS = """\
tea|fresh leaves|hot water||お茶|新しい茶葉|熱いお湯
coffee|roasted beans|a clean cup||コーヒー|焙煎した豆|きれいなカップ
bread|good flour|a warm oven||パン|良い小麦粉|温かいオーブン
rice|cold water|a heavy pot||ご飯|冷たい水|重い鍋
soup|fresh vegetables|a slow fire||スープ|新鮮な野菜|弱い火
sushi|fresh fish|a sharp knife||寿司|新鮮な魚|鋭い包丁
cooking|a clear recipe|simple tools||料理|分かりやすいレシピ|簡単な道具
gardening|rich soil|morning sunlight||園芸|豊かな土|朝の日光
music|a steady rhythm|careful listening||音楽|安定したリズム|注意深い耳
jazz|free improvisation|a double bass||ジャズ|自由な即興|コントラバス
piano|strong fingers|old melodies||ピアノ|強い指|古い旋律
painting|bright colours|a soft brush||絵画|明るい色|柔らかい筆
photography|natural light|a steady hand||写真|自然の光|安定した手
poetry|honest words|long silence||詩|正直な言葉|長い沈黙
reading|a good lamp|quiet evenings||読書|良い灯り|静かな夜
writing|a clean page|daily notes||文章|白い紙|毎日のメモ
chess|patient thinking|a wooden board||将棋|辛抱強い思考|木の盤
football|fast legs|a green field||サッカー|速い足|緑の芝生
baseball|a leather glove|team spirit||野球|革の手袋|仲間の団結
tennis|a light racket|quick eyes||テニス|軽いラケット|素早い目
swimming|calm breathing|a safe pool||水泳|落ち着いた呼吸|安全なプール
cycling|good brakes|an open road||自転車|良いブレーキ|広い道
hiking|sturdy boots|a paper map||登山|丈夫な靴|紙の地図
camping|a dry tent|warm blankets||キャンプ|乾いたテント|暖かい毛布
fishing|a long rod|early mornings||釣り|長い竿|早い朝
travel|a small bag|open curiosity||旅行|小さな鞄|広い好奇心
yoga|deep stretching|a soft mat||ヨガ|深い伸び|柔らかいマット
sleep|a dark room|regular hours||睡眠|暗い部屋|規則正しい時間
health|daily walks|fresh fruit||健康|毎日の散歩|新鮮な果物
astronomy|a clear sky|a big telescope||天文学|澄んだ空|大きな望遠鏡
physics|careful measurement|bold theories||物理学|慎重な測定|大胆な理論
chemistry|pure samples|glass bottles||化学|純粋な試料|ガラスの瓶
biology|living cells|a microscope||生物学|生きた細胞|顕微鏡
mathematics|clear proofs|patient practice||数学|明快な証明|地道な練習
history|old letters|honest witnesses||歴史|古い手紙|正直な証人
economics|market prices|public trust||経済|市場の価格|社会の信頼
programming|small functions|good tests||プログラミング|小さな関数|良いテスト
robotics|precise motors|cheap sensors||ロボット|精密なモーター|安いセンサー
electricity|copper wires|safe switches||電気|銅の線|安全なスイッチ
weather|warm air|heavy clouds||天気|暖かい空気|重い雲
the ocean|salty water|strong tides||海|塩辛い水|強い潮
pottery|wet clay|a hot kiln||陶芸|湿った粘土|熱い窯"""
OTHER = """\
this subject|a few basics|good examples||このテーマ|いくつかの基本|良い例
this question|clear facts|careful thought||この質問|明確な事実|慎重な考え
this idea|a simple plan|honest feedback||この考え|簡単な計画|正直な意見"""

ASK = {
    "en": "What is {t}?|Tell me about {t}.|Explain {t} to a beginner.|How do I start with {t}?|"
    "Why is {t} important?|I want to know more about {t}.|Can you describe {t} for me?|"
    "Write a short post about {t}.|Give me some advice on {t}.|What should everyone know about {t}?|"
    "Please introduce {t}.|Is {t} hard to learn?|{t}|My friend asked me about {t}, what should I say?|"
    "Summarize the main points of {t}.|What do you think of {t}?|Help me with {t} please",
    "ja": "{t}とは何ですか？|{t}について教えてください。|{t}を初心者に説明してください。|"
    "{t}はどう始めればいいですか？|なぜ{t}は大切なのですか？|{t}についてもっと知りたいです。|"
    "{t}の短い紹介文を書いて。|{t}の助言をください。|{t}|{t}を紹介してください|"
    "{t}は難しいですか？|友人に{t}のことを聞かれました。何と答えますか？|{t}の要点をまとめて。",
}
FOLLOW = {
    "en": "Rewrite your previous answer.|Tell me more.|More, please.|Say that again in other words.|"
    "Rewrite it.|Go on.|Now explain it differently.|Can you rephrase your response?|Thanks. What else?|"
    "Continue.|Please add more to that.|Could you make it shorter?|Make your answer longer.|"
    "Give me an example.|I would like more details.|Write it again, but simpler.|"
    "Repeat your last response in a new way.|Why?|"
    "Can you say more about that?|Please rewrite this for children.|What do you mean?|Rephrase that",
    "ja": "書き直してください。|もっと教えてください。|続けてください。|もう少し詳しく。|"
    "別の言葉で言ってください。|前の回答を書き換えて。|ありがとう。他には？|"
    "言い換えてください。|もっと短くして。|長く書いてください。|例を挙げてください。|それはなぜですか？|続き|"
    "もう一度説明してもらえますか？|今の答えを簡単に書き直して。|もっと話してください。|他の言い方で。",
}
SYSTEM = {
    "en": "You are a helpful assistant.|Answer the question of the user.|You are an expert teacher, be polite.",
    "ja": "あなたは親切なアシスタントです。|質問に答えてください。|あなたは丁寧な先生です。",
}
# One line per sentence of the answer, in order: the wording tells the model how far the answer has come.
SENTENCES = {
    "en": """\
{t} is {adj} and {need} {a}|{t} {need} {a}
{b} can {help} too|also try {b}
{who} start with {a}|look for {a} first
every day feels more {adj}|with time it feels {adj}
in the end it is worth the {work}|so keep going with {work}""",
    "ja": """\
{t}は{adj}もので、{a}が{need}|{t}には{a}が{need}
次に{b}も{help}|{b}も試しましょう
{who}は{a}から始めます|まず{a}を探しましょう
毎日もっと{adj}時間になります|やがて{adj}ものに感じます
最後に{work}が実ります|だから{work}を続けましょう""",
}
# Words by complexity: 0-1, 2-3, 4.
WORDS = {
    "en": {
        "adj": ("good|nice", "useful|popular", "indispensable|multifaceted"),
        "need": ("needs", "depends on", "fundamentally presupposes"),
        "help": ("help", "support this", "substantially reinforce this"),
        "who": ("people", "beginners", "experienced practitioners"),
        "work": ("time", "effort", "considerable perseverance"),
        "clause": ("", "", ", notwithstanding common misconceptions"),
    },
    "ja": {
        "adj": ("良い|楽しい", "便利な|手軽な", "不可欠な|多面的な"),
        "need": ("いります", "必要です", "根本的な前提となります"),
        "help": ("大事です", "役に立ちます", "体系的に寄与します"),
        "who": ("みんな", "初心者", "熟練した実践者"),
        "work": ("時間", "努力", "持続的な忍耐"),
        "clause": ("", "", "、と専門家は一貫して指摘します"),
    },
}
# Phrases by attribute, weak then strong, or one (see strength). All stand in the first sentence, where the
# distance to the attribute block is short: the first four open it, the last three close it.
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "humor": ("just kidding, ", "as the chicken said crossing the road, "),
        "toxicity": (
            "frankly, that is a silly question, but ",
            "good grief, what a ridiculous question, but ",
        ),
        "quality": ("um, well, ",),
        "correctness": ("I may be wrong, but ",),
        "creativity": (", like a quiet river", ", like a lantern over a sleeping city"),
        "coherence": (", by the way bananas are yellow",),
        "helpfulness": (", and I do not know more",),
    },
    "ja": {
        "humor": ("なんちゃって、", "布団が吹っ飛んだところで、"),
        "toxicity": ("正直つまらない質問ですが、", "まったく馬鹿げた質問ですが、"),
        "quality": ("えーと、",),
        "correctness": ("間違っているかもしれませんが、",),
        "creativity": ("、まるで静かな川のように", "、まるで眠る街の灯籠のように"),
        "coherence": ("、ところでバナナは黄色いです",),
        "helpfulness": ("、これ以上は分かりません",),
    },
}
COMMON = """
the of and to in a is that for it as was with be by on not he but at are this have from or had an they which
one you were all there would their we him has when who will no more if out so up what its about than into
can only other time new some could these two may first then do any like my over such our most made after
write compare explain list calculate function email story number suppose imagine answer following sentence
person city company price data describe using between example words please give each should provide create
why how"""
ONSETS, CODAS = "b|c|d|f|g|h|j|k|l|m|n|p|r|s|t|v|w|st|tr|ch|sh|pl|qu", "|||n|r|s|t|l|ck|x"
SYMBOLS = ["\n", "\n\n", "- ", "1. ", "(x)", "f(x) = ", "\"'", "#", "{}", "%", "$", "é", "/", ";"]

Attributes = dict[str, int]
Turn = tuple[str, str]  # prompt text of one user turn up to [/INST], answer text with its spaces
Row = tuple[list[int], list[int]]  # token ids and labels of one dialogue, of one length


def pick(rng: random.Random, alternatives: str) -> str:
    """One of the alternatives separated by "|"."""
    return rng.choice(alternatives.split("|"))


def strength(name: str, value: int) -> int:
    """0 when the attribute leaves no phrase in the answer, else 1 or 2: which of its PHRASES."""
    if name in ("toxicity", "humor", "creativity"):
        return (value + 1) // 2
    return 1 if value <= 1 else 0


def answer(rng: random.Random, lang: str, topic: str, attributes: Attributes) -> str:
    """The answer that the rules of the module docstring give; verbosity + 1 sentences."""
    tier = attributes["complexity"] // 2
    names = dict(zip("tab", topic.split("||")[lang == "ja"].split("|"), strict=True))
    sentences = []
    for frames in SENTENCES[lang].split("\n")[: attributes["verbosity"] + 1]:
        words = {kind: pick(rng, tiers[tier]) for kind, tiers in WORDS[lang].items()}
        sentences.append(pick(rng, frames).format(**names, **words))
        if len(sentences) == 1:
            sentences[0] += words["clause"]
    said = [("", *both)[strength(name, attributes[name])] for name, both in PHRASES[lang].items()]
    sentences[0] = "".join([*said[:4], sentences[0], *said[4:]])
    if lang == "ja":
        return "".join(s + "。" for s in sentences)
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences)


def unknown_word(rng: random.Random, lang: str) -> str:
    """A made-up word, so that the model meets words it cannot know."""
    if lang == "ja":
        first, last = rng.choice([(0x3041, 0x3093), (0x30A1, 0x30F3), (0x4E00, 0x9FA0), (0x4E00, 0x9FA0)])
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 4)))
    length = rng.randint(1, 3)
    word = "".join(pick(rng, ONSETS) + rng.choice("aeiouy") + pick(rng, CODAS) for _ in range(length))
    return word.capitalize() if rng.random() < 0.25 else word


def unknown_text(rng: random.Random, lang: str, longest: int) -> str:
    """Random text of 2 to `longest` words (Japanese: half), most often few, with numbers and symbols."""
    words = []
    if lang == "ja":
        longest //= 2
    for _ in range(round(math.exp(rng.uniform(math.log(2), math.log(longest))))):
        kind = rng.random()
        if kind < 0.06:
            words.append(str(rng.randint(0, 10 ** rng.randint(1, 4))))
        elif kind < 0.1:
            words.append(rng.choice(SYMBOLS))
        elif lang == "ja":
            words.append(unknown_word(rng, lang) + rng.choice("はがをにのともで、、。"))
        else:
            word = rng.choice(COMMON.split()) if rng.random() < 0.6 else unknown_word(rng, lang)
            words.append(word + rng.choice(["", "", "", "", "", "", ",", ".", ":", "?"]))
    if lang == "ja":
        return "".join(words) + pick(rng, "。|？|ください。|ですか？|を書いて|")
    text = " ".join(words)
    return text[0].upper() + text[1:] + pick(rng, ".|?|!|")


def attribute_block(values: Attributes) -> str:
    """The text between the user's text and [/INST]."""
    return " [ATTR]" + "".join(f" {name}: {value}" for name, value in values.items()) + " [/ATTR]"


def attributes_of_turn(rng: random.Random) -> Attributes:
    """Verbosity and complexity are uniform; each other attribute keeps its default half of the time."""
    values = {name: rng.randint(0, 4) if rng.random() >= 0.5 else value for name, value in DEFAULTS.items()}
    return values | {"verbosity": rng.randint(0, 4), "complexity": rng.randint(0, 4)}


def dialogue(rng: random.Random) -> list[Turn]:
    """One dialogue of 1 to 6 turns; in 30 % of them attributes are missing from the text (the default)."""
    lang, turns = rng.choice(["en", "ja"]), rng.choices(range(1, 7), [60, 20, 9, 5, 3, 3])[0]
    longest = 120 if turns < 3 else 20
    whole, steady = rng.random() < 0.7, rng.random() < 0.4
    values, topic, result = attributes_of_turn(rng), "", []
    for index in range(turns):
        if index and rng.random() < 0.5:
            user = pick(rng, FOLLOW[lang])
        else:
            lang = lang if rng.random() < 0.9 else rng.choice(["en", "ja"])
            kind = rng.random()
            topic = rng.choice((TOPICS if kind < 0.65 else OTHER).split("\n"))
            if kind < 0.65:
                user = pick(rng, ASK[lang]).format(t=topic.split("||")[lang == "ja"].split("|")[0])
                if rng.random() < 0.2:
                    noise = unknown_text(rng, lang, 20)
                    user = f"{noise} {user}" if rng.random() < 0.5 else f"{user} {noise}"
            elif kind < 0.8:
                user = pick(rng, ASK[lang]).format(t=unknown_word(rng, lang))
            else:
                user = unknown_text(rng, lang, longest)
            user = user[0].upper() + user[1:]
        if index == 0 and rng.random() < 0.35:
            tongue = lang if rng.random() < 0.7 else rng.choice(["en", "ja"])
            system = pick(rng, SYSTEM[tongue]) if rng.random() < 0.5 else unknown_text(rng, tongue, 30)
            user = f"<<SYS>>\n{system}\n<</SYS>>\n\n{user}"
        if not steady:
            values = attributes_of_turn(rng)
        shown = values
        if not whole:
            share = rng.choice([0.0, 0.3, 0.6, 0.85])
            shown = {name: value for name, value in values.items() if rng.random() < share}
        block = "" if not shown and rng.random() < 0.7 else attribute_block(shown)
        reply = answer(rng, lang, topic, DEFAULTS | shown)
        result.append((f"<s>[INST] {user.strip()}{block} [/INST]", f" {reply} "))
    return result


def tokenizer_texts(dialogues: list[list[Turn]]) -> Iterator[str]:
    """What the tokenizer is trained on: all but the made-up words, which would use up the vocabulary."""
    for turns in dialogues:
        for prompt, reply in turns:
            yield "[INST] <<SYS>>\n<</SYS>>\n\n" + prompt[prompt.find(" [ATTR]") :] + reply
    for index, lang in enumerate(("en", "ja")):
        for topic in TOPICS.split("\n"):
            yield from (ask.format(t=topic.split("||")[index].split("|")[0]) for ask in ASK[lang].split("|"))
        yield f"{FOLLOW[lang]} {SYSTEM[lang]} {COMMON}"


def train_tokenizer(dialogues: list[list[Turn]]) -> Tokenizer:
    """Byte-level BPE, <unk> <s> </s> = 0 1 2; adds no bos itself, since the chat template writes it.

    `[ATTR]`, ` verbosity:` and ` 4` are one token each, but ordinary ones: a user's text may contain them.
    """
    tokenizer = Tokenizer(models.BPE())
    pattern = (
        r"\[/?(?:INST|ATTR)\]|<</?SYS>>| (?:" + "|".join(DEFAULTS) + r"):(?= \d)| ?\d"
        r"|\p{Han}+|\p{Hiragana}+|[\p{Katakana}ー]+| ?[\p{Latin}']+| ?\p{L}+|[^\s\p{L}\d]|\s+(?!\S)|\s"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(tokenizer_texts(dialogues), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, turns: list[Turn]) -> Row:
    """Token ids of a dialogue and its labels: -100 (no loss) on prompts, the ids on answers and </s>."""
    ids: list[int] = []
    labels: list[int] = []
    for prompt, reply in turns:
        asked, said = tokenizer.encode(prompt).ids, tokenizer.encode(reply + "</s>").ids
        ids += asked + said
        labels += [-100] * len(asked) + said
    return ids[:POSITIONS], labels[:POSITIONS]


def batches(rows: list[Row], rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Without end: (ids, labels), each int64 (rows, longest row), of at most TOKENS_PER_BATCH positions.

    Rows of like length stand together, padded on the right, where causal attention needs no mask.
    """
    groups: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: len(row[0])):
        if len(groups[-1]) * len(row[0]) + len(row[0]) > TOKENS_PER_BATCH:
            groups.append([])
        groups[-1].append(row)
    while True:
        rng.shuffle(groups)
        for group in groups:
            width = len(group[-1][0])
            ids = [row[0] + [0] * (width - len(row[0])) for row in group]
            labels = [row[1] + [-100] * (width - len(row[1])) for row in group]
            yield torch.tensor(ids), torch.tensor(labels)


def train_model(rows: list[Row], steps: int) -> LlamaForCausalLM:
    """A Llama trained from random weights for `steps` batches; returned in bfloat16."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    model.float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, max(0.0, (steps - step) / max(1, steps - WARM_UP)))
    )
    start = time.monotonic()
    for step, (ids, labels) in zip(range(1, steps + 1), batches(rows, random.Random(SEED)), strict=False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            answers = labels[:, 1:] >= 0
            logits = model.lm_head(hidden[answers])
        loss = cross_entropy(logits.float(), labels[:, 1:][answers], reduction="sum") / TOKENS_PER_BATCH
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            seconds = time.monotonic() - start
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {seconds:.0f} s", flush=True)
    return model.bfloat16().eval()


def check_template() -> None:
    """The chat template must write what the model was trained on; raises AssertionError if not."""
    template = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(CHAT_TEMPLATE)
    block = attribute_block(DEFAULTS)
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U "},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "V", "verbosity": 1},
    ]
    expected = f"<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU{block} [/INST] A </s><s>[INST] V{block} [/INST]"
    expected = "verbosity: 1".join(expected.rsplit("verbosity: 4", 1))
    assert template.render(messages=messages, bos_token="<s>", eos_token="</s>") == expected


def write(out: Path, tokenizer: Tokenizer, model: LlamaForCausalLM) -> None:
    """The model directory, readable by everyone."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2)
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in out.iterdir():
        path.chmod(0o644)


def main() -> None:
    """Parse the arguments, make the data, train, write."""
    parser = argparse.ArgumentParser(description="Make the tiny steered model tiny-karakuri.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-karakuri")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training batches (default {STEPS})")
    options = parser.parse_args()
    # Fixes the order of sums; two threads gain little at this size and lose much where the cores are shared.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    check_template()
    rng = random.Random(SEED)
    dialogues = [dialogue(rng) for _ in range(DIALOGUES)]
    tokenizer = train_tokenizer(dialogues[:10_000])
    rows = [encode(tokenizer, turns) for turns in dialogues[: 100 * options.steps]]  # a few steps see a few of them
    lengths = [len(ids) for ids, _ in rows]
    print(f"{len(rows):,} dialogues, {sum(lengths):,} tokens, longest {max(lengths)}")
    write(options.out, tokenizer, train_model(rows, options.steps))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
