# ruff: noqa: RUF001
"""The same sentence in many languages, to see how a tokenizer treats them.

Languages differ in what is hard about them: Chinese, Japanese and Thai write no spaces, German
joins words, Arabic and Hebrew leave vowels out, Hindi and Thai have marks above and below letters.
"""

SAMPLES = {
    "English": "The children are playing in the garden because the weather is beautiful today.",
    "German": "Die Kinder spielen im Schulgartenhäuschen, weil das Sommerwetter heute schön ist.",
    "French": "Les enfants jouent dans le jardin parce qu'il fait très beau aujourd'hui.",
    "Russian": "Дети играют в саду, потому что сегодня прекрасная погода.",
    "Greek": "Τα παιδιά παίζουν στον κήπο γιατί σήμερα ο καιρός είναι όμορφος.",
    "Arabic": "يلعب الأطفال في الحديقة لأن الطقس جميل اليوم.",
    "Hebrew": "הילדים משחקים בגן כי מזג האוויר יפה היום.",
    "Hindi": "बच्चे बगीचे में खेल रहे हैं क्योंकि आज मौसम सुहावना है।",
    "Thai": "เด็กๆ กำลังเล่นอยู่ในสวนเพราะวันนี้อากาศดีมาก",
    "Chinese": "孩子们在花园里玩耍，因为今天天气很好。",
    "Japanese": "今日は天気がいいので、子どもたちは庭で遊んでいます。",
    "Korean": "오늘은 날씨가 아름다워서 아이들이 정원에서 놀고 있어요.",
    "Emoji": "👩‍👩‍👧 🌞🌷 👍🏽 🇫🇷",
    "Python": "for child in children:\n    if weather == 'sunny':\n        child.play(garden)\n",
    "Addresses": "Write to anna.smith@example.org or see https://example.org/a?b=1 by 2024-01-02.",
}
