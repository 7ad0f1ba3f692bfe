// The texts of the corpus, each with a kind. All of them were written for it.

const texts = []
const add = (kind, ...more) => more.forEach((text) => texts.push({ kind, text }))

add('empty and single', '', ' ', 'a', 'Z', '0', '.', '\n', '\t', '\r', '\r\n', '中', 'é', '🦊', '\u200d', '\u0301', "'", '/', '\ufffd')

add(
  'english',
  'The reserve is released when the caller goes away before the first token has been delivered.',
  'A ledger that cannot be replayed is a rumour; one that can be replayed is a proof.',
  'Nobody noticed the missing cent until the third audit, which is why there is a fourth.',
  'Dr. Ng’s 3rd-floor office (room 3.14) opens at 9 a.m., doesn’t it?',
  'WAIT! what...? No -- really?! "Yes," she said; \'of course\'.',
  'antidisestablishmentarianism floccinaucinihilipilification pneumonoultramicroscopicsilicovolcanoconiosis',
  'the the the the the the the the the the the the the the the the',
  'One sentence.  Two spaces.   Three spaces.\n\nA new paragraph.\n\n\nAnd another one.\n',
)

add(
  'contractions',
  "I'm sure they've said we'll see what he'd do; it's what she can't, won't and shouldn't've done.",
  "I'M SURE THEY'VE SAID WE'LL SEE; IT'S WHAT SHE CAN'T",
  "y'all'd've o'clock rock'n'roll 'tis 'twas d'être l'été qu'il aujourd'hui",
  "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'VE 'M 'LL 'D 'x '",
  "it'ſ a long s, and it’s a curly one",
  "''''ll ''s '''m x''t",
  "1's 2'll 3've 'n' 're9",
  "\n's\n't\r\n'll 'd\t've",
)

add(
  'other latin',
  'Der Zuckerbäckermeister übergibt dem Größten seiner Söhne die Schlüssel zur Straßenbahn.',
  'Où l’été dernier, l’œuvre naïve de Zoë a été exposée près du château, ça alors !',
  'El pingüino cigüeño añoraba más mañanas en Logroño: ¿verdad?, ¡claro!',
  'Příliš žluťoučký kůň nepěl žádné ódy, ale řidič tramvaje ano.',
  'Zażółć gęślą jaźń, powiedział księgowy i zamknął księgę.',
  'İstanbul’da ılık bir öğleden sonra çay içtik, ğüşöç.',
  'Đường về nhà hôm nay mưa rất to, nhưng quán phở vẫn mở cửa.',
  'Þórður fór út í búð að kaupa skyr og ýsu.',
  'Sügav öö, jäine õu, kõrge kuusk.',
  'Ein Äpfelchen, zwei Äpfelchen, ǅungla ǈ ǋ ŉ ĸ ß ẞ',
)

add(
  'cyrillic, greek and others',
  'Счётчик токенов считает каждое слово, даже самое длинное: переосвидетельствование.',
  'ПРОПИСНЫЕ БУКВЫ и строчные, ёлка, съёмка, 2-й этаж.',
  'Український баланс: п’ять гривень сорок копійок, ґанок і їжак.',
  'Το υπόλοιπο του λογαριασμού είναι τριάντα ευρώ, ΕΥΧΑΡΙΣΤΩ πολύ.',
  'Հաշվի մնացորդը երեսուն դրամ է։',
  'ანგარიშის ნაშთი ოცდაათი ლარია.',
  'ᎣᏏᏲ ᏙᎯᏧ ᎣᏍᏓ',
  'ⲁⲃⲅ ⴰⴱⴳ ꙮ Ѡ ѡ',
)

add(
  'chinese',
  '账户余额不足，请先充值。',
  '服务先锁定账户，再检查余额；余额不足时，整笔扣费都会被拒绝。',
  '免费额度用完之后才动用余额，同一个编号重复提交只会得到第一次的结果。',
  '夜里下了一场小雨，河边的柳树都绿了。孩子们在桥上看船，老人在亭子里下棋。',
  '「你好，」他说，「今天的报表做好了吗？」——还没有……',
  '2026年11月21日，上海，气温12℃，东北风3～4级，降水概率70%。',
  '使用 Rust 编写的计费服务 billing-service，监听 8107 和 9107 两个端口。',
  '繁體中文：帳戶餘額不足，請先儲值；點數將於月底歸零。',
  '生僻字：龘靐齉爩鱻麤灪籲𠮷𠔻𪚥㐂㔾',
  '标点！？。，、；：“”‘’（）《》【】『』〈〉〔〕…—～·',
  '一二三四五六七八九十百千万亿〇零壹贰叁㈠①⑩',
  '中文与English混排，没有空格的Text和123数字456交错。',
  '全角ＡＢＣａｂｃ１２３！＠＃　空格',
  '的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的',
  '价格是￥12.50元/百万词元，约合$1.75。',
  '第一行\n第二行\r\n第三行\n\n第五行\t结束',
  'C语言的AV、BC和亚洲AV以及亚洲aV',
  '哈哈哈哈😂😂，太好了👍🏻！',
)

add(
  'japanese',
  '残高が不足しています。先にチャージしてください。',
  'トークンの数は、文字の数とは違います。カタカナ、ひらがな、漢字が混ざります。',
  '雨の日の図書館は静かで、窓ぎわの席がすぐに埋まってしまう。',
  '「はい」と言って、彼は５００円を払った。',
  'ｶﾀｶﾅ半角とｶﾞｷﾞｸﾞ、々〆〇ヶヵゝゞヽヾー',
  'すもももももももものうち',
  'サーバー・クライアント間のレイテンシーは３０ミリ秒です！？',
  'が\u3099ぎ か\u3099き\u3099く\u3099',
)

add(
  'korean',
  '잔액이 부족합니다. 먼저 충전해 주세요.',
  '토큰 수는 글자 수와 다르며, 띄어쓰기에 따라 달라집니다.',
  '할머니는 장독대 옆에 앉아 감자를 깎으셨다.',
  'ㅋㅋㅋㅋㅋ ㅠㅠ ㄱㄴㄷ ㅏㅑㅓ',
  '\u1112\u1161\u11ab\u1100\u1173\u11af 자모',
  '한국어와English를섞어쓰면123어떻게될까?',
)

add(
  'right to left',
  'رصيد الحساب غير كافٍ، يرجى الشحن أولاً.',
  'العدد ١٢٣٤٥٦٧٨٩٠ بالأرقام العربية، والنسبة ٪٥٠.',
  'مُحَمَّدٌ يَكْتُبُ رِسَالَةً إِلَى صَدِيقِهِ فِي المَدِينَةِ',
  'ـــــكشيدةـــــ لا لآ ﷺ ﻻ',
  'היתרה בחשבון אינה מספיקה, נא לטעון תחילה.',
  'שָׁלוֹם עֲלֵיכֶם, מַה שְּׁלוֹמְךָ?',
  'موجودی حساب کافی نیست؛ می‌خواهم ۵۰٬۰۰۰ تومان واریز کنم.',
  'اکاؤنٹ میں رقم ناکافی ہے۔',
  '\u202bRTL\u202c mixed \u200fטקסט\u200e with marks',
)

add(
  'indic and southeast asian',
  'खाते में शेष राशि अपर्याप्त है, कृपया पहले रिचार्ज करें।',
  'क्षत्रिय ज्ञान श्री ऋषि कृष्ण द्वंद्व १२३४५६७८९०',
  'অ্যাকাউন্টে যথেষ্ট টাকা নেই।',
  'கணக்கில் போதுமான இருப்பு இல்லை.',
  'ఖాతాలో తగినంత నిల్వ లేదు.',
  'അക്കൗണ്ടിൽ മതിയായ ബാലൻസ് ഇല്ല.',
  'ගිණුමේ ශේෂය ප්‍රමාණවත් නොවේ.',
  'ยอดเงินในบัญชีไม่พอ กรุณาเติมเงินก่อนใช้งาน',
  'กรุงเทพมหานครอมรรัตนโกสินทร์ฝนตกหนักมาก',
  'ຍອດເງິນບໍ່ພຽງພໍ',
  'သင့်အကောင့်တွင် ငွေမလုံလောက်ပါ။',
  'សមតុល្យគណនីមិនគ្រប់គ្រាន់ទេ។',
  'བོད་ཡིག་གི་ཚིག་གྲུབ།',
  'ሂሳብዎ ውስጥ በቂ ገንዘብ የለም።',
)

add(
  'emoji',
  '😀😃😄😁😆😅😂🤣',
  'Ship it 🚀🚀🚀 now!',
  '👨‍👩‍👧‍👦 👩🏽‍💻 🏳️‍🌈 🏴‍☠️ 🧑🏿‍🤝‍🧑🏻',
  '👍👍🏻👍🏼👍🏽👍🏾👍🏿',
  '🇨🇳🇩🇪🇯🇵🇧🇷🇪🇺 🇨 🇳',
  '1️⃣2️⃣3️⃣#️⃣*️⃣',
  '❤ ❤️ ☀ ☀️ ☃ ✈︎ ✈️',
  'a😀b 😀c\n😀\n\n😀 😀  😀',
  '🏴󠁧󠁢󠁥󠁮󠁧󠁿🏴󠁧󠁢󠁳󠁣󠁴󠁿',
  '(╯°□°）╯︵ ┻━┻ ¯\\_(ツ)_/¯ ʕ•ᴥ•ʔ',
  '😀'.repeat(100),
  '👩‍🚀'.repeat(30),
)

add(
  'combining marks',
  'e\u0301 e\u0300 n\u0303 a\u030a o\u0308 u\u0308\u0304',
  'Z\u0351\u0346\u030ba\u0334\u0321l\u0335\u0328g\u0337\u0322o\u0336\u0316',
  'a\u0301b\u0301c\u0301 A\u0301B\u0301C\u0301',
  '\u0301\u0301\u0301 x\u0301\u0302\u0303\u0304\u0305',
  'x' + '\u0301'.repeat(120),
  ' \u0301a .\u0301. 1\u03012 \n\u0301b',
  'e\u0301\'s E\u0301\'LL n\u0303\'t',
)

add(
  'white space',
  '  ', '   ', '    ', ' a', '  a', '   a', 'a ', 'a  ', 'a   ', 'a b', 'a  b', 'a   b',
  '\n\n', '\n\n\n', '\n \n', ' \n ', '  \n  ', 'a\nb', 'a\n\nb', 'a \n b', 'a  \n\n  b', 'a\n ', 'a\n  ', 'a \n \n  ',
  '\t\t\t', 'a\tb\t\tc\t\t\td', '\ta', ' \ta', '\t a',
  'a\r\nb\r\n\r\nc\r\n', '\r\r\r', '\n\r\n\r', 'a\rb\r\rc',
  'a\u00a0b\u00a0\u00a0c', '\u3000全\u3000角\u3000\u3000', 'a\u2003b\u2009c\u200ad', 'a\u2028b\u2029c', '\u000b\u000c a\u000bb',
  ' '.repeat(7) + 'x', ' '.repeat(64), ' '.repeat(200) + 'y', '\n'.repeat(100), '\t'.repeat(90), ' \n'.repeat(60), '\r\n'.repeat(50),
  ' '.repeat(81) + '\n' + ' '.repeat(83), 'end with spaces' + ' '.repeat(20), 'end with lines' + '\n'.repeat(20), '1  2   3    4\n5 \n 6',
  '!\n', '!\n\n x', '! \n', ';\n    return;\n}\n', '...\r\n\r\n---\n/', '!\n/path', '/\n/\n//\n', '。\n　\n！',
)

add(
  'numbers',
  '1', '12', '123', '1234', '12345', '123456', '1234567', '0.1 0.12 0.123 0.1234',
  '3.14159265358979323846264338327950288419716939937510',
  '1,234,567.89 1.234.567,89 1 234 567,89 -42 +7 1e10 6.022e23 0x1F 0b1010 0o17',
  '2026-11-21T10:57:17.165342Z 21/11/2026 11:59 PM +08:00',
  '+49 30 901820 (555) 010-4477 192.168.178.1 fe80::1ff:fe23:4567:890a%eth0',
  '½ ⅓ ¾ ² ³ ⁴ ₁ ₂ Ⅷ ⅷ ① ⑳ ㊿ ٣ ४ ๕ 𝟙𝟚𝟛 𐄈',
  '9'.repeat(100), '0'.repeat(31), '123abc456def789', 'a1b2c3d4', '１２３４５', '1٢3४5', '50% §7 №9 #1 @2',
)

add(
  'urls and paths',
  'https://example.org/a/b/c?user_id=u-1&page=2&q=a%20b#top',
  'http://localhost:8107/api/v1/billing/account?user_id=new_user_001',
  'ftp://files.example.net/pub/../etc/./x.tar.gz mailto:someone@example.org',
  'C:\\Users\\me\\Documents\\bill (1).pdf /usr/local/bin/server -conf configs/local.yaml',
  'git@example.org:team/repo.git ssh://host:22/~user s3://bucket/key/part-00001.parquet',
  'urn:uuid:6fa459ea-ee8a-3ca4-894e-db77e160355e',
)

add(
  'encoded',
  'SGVsbG8sIHRoaXMgaXMgYSBsb25nZXIgdGV4dCB0aGF0IHdhcyBlbmNvZGVkIGluIGJhc2U2NCwgdHdpY2UgaWYgbmVlZCBiZS4=',
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1LTEiLCJleHAiOjF9.',
  'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  'DEADBEEF cafebabe 0xDeadBeef 00:1A:2B:3C:4D:5E',
  '%E4%BD%A0%E5%A5%BD+%26+%3Cb%3E &amp;&lt;&#x4f60;&nbsp; \\u4f60\\n\\x00',
  'QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo'.repeat(12),
)

add(
  'structured',
  '{"user_id":"u","count":1,"cost":0.05,"tags":["a","b"],"nested":{"ok":true,"none":null}}',
  '{\n  "name": "billing",\n  "ports": [\n    8107,\n    9107\n  ],\n  "empty": {}\n}\n',
  'server:\n  http:\n    addr: 0.0.0.0:8107\n    timeout: 1s # seconds\n  list:\n    - a\n    - "b: c"\n',
  '| name | price |\n| --- | ---: |\n| passport | 0.01 |\n| asset | 0.05 |\n',
  '# Title\n\n- item *one*\n- item **two**\n  1. nested `code`\n\n> quote\n\n```rust\nfn main() {}\n```\n',
  'id,created_at,amount\r\n1,"2026-11-21",0.50\r\n2,"a ""quoted"" one",\r\n',
  '<!DOCTYPE html>\n<html lang="en"><head><title>Pay</title></head>\n<body class="a b"><p>5 &lt; 6</p></body></html>',
  '<?xml version="1.0"?>\n<root xmlns:a="urn:a"><a:item id="1"/><!-- no --><![CDATA[x<y]]></root>',
  '[package]\nname = "x"\nversion = "0.1.0"\n\n[dependencies]\nserde = { version = "1", features = ["derive"] }\n',
  'GET /health HTTP/1.1\r\nHost: localhost:8107\r\nAccept: */*\r\n\r\n',
  '2026-11-21T10:57:17Z  WARN billing::lane{user="u-1"}: waited too long wait_ms=512',
  '\\begin{equation} E = mc^2 + \\frac{\\alpha_{i,j}}{\\sqrt{2\\pi}} \\label{eq:x} \\end{equation}',
  '∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, ∑_{i=0}^{n} i² ≠ ∫₀^∞ e^{−x} dx, α≤β→γ',
  '+----+-------+\n| id | name  |\n+----+-------+\n|  1 | anna  |\n+----+-------+\n',
  '┌──────┐\n│ 支払 │\n└──────┘ ████░░ 50%',
)

add(
  'code',
  'fn charge(count: u32, remaining: u32) -> (u32, u32) {\n    let free = count.min(remaining);\n    (free, count - free)\n}\n',
  'impl<T: Send + \'static> Lane<T> {\n\tpub async fn settle(&mut self) -> Result<(), Error> {\n\t\tmatch self.next().await? { Some(_) => Ok(()), None => Err(Error::Closed) }\n\t}\n}\n',
  'def tokens(text: str, *, model="gpt-4o") -> int:\n    """Counts."""\n    return sum(1 for _ in text.split()) if text else 0\n\n\nclass A(B):\n    x: int = 0\n',
  'const sum = (xs) => xs.reduce((a, b) => a + b, 0);\nexport default async function* f({ a, ...rest } = {}) { yield* rest?.b ?? `t${a}`; }\n',
  'interface User<T extends string | number> { readonly id: T; name?: string }\ntype P = Partial<Record<keyof User<string>, unknown>>;\n',
  'package main\n\nimport (\n\t"fmt"\n)\n\nfunc main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Printf("%d\\n", i)\n\t}\n}\n',
  'public static void main(String[] args) throws IOException {\n    System.out.println("HTTPServerFactoryBean".toLowerCase());\n}\n',
  '#include <stdio.h>\n#define MAX(a, b) ((a) > (b) ? (a) : (b))\nint main(void) { char *p = "x"; printf("%s\\t%p\\n", p, (void*)&p); return 0; }\n',
  'template <typename T> auto f(T&& t) -> decltype(t.g()) { return std::forward<T>(t).g(); } // C++\n',
  'SELECT user_id, SUM(amount) AS total FROM billing_record WHERE created_at >= \'2026-11-01\' GROUP BY user_id HAVING total > 0 ORDER BY 2 DESC LIMIT 10;',
  '#!/bin/sh\nset -eu\nfor f in *.txt; do\n  [ -f "$f" ] || continue\n  wc -l < "$f" | awk \'{print $1}\' >> "${OUT:-/tmp/out}"\ndone\n',
  'let rec fact n = if n <= 1 then 1 else n * fact (n - 1)\nlet () = Printf.printf "%d\\n" (fact 5)\n',
  'main :: IO ()\nmain = mapM_ print $ takeWhile (< 100) [x * x | x <- [1 ..], odd x]\n',
  'defmodule Lane do\n  def settle([]), do: :ok\n  def settle([h | t]), do: (IO.inspect(h); settle(t))\nend\n',
  '(defn total [xs] (->> xs (map :amount) (reduce + 0)))\n',
  'fun main() { val m = mapOf("a" to 1); println(m["a"]?.let { it + 1 } ?: 0) }\n',
  '<?php foreach ($rows as $i => $row): ?>\n  <li><?= htmlspecialchars($row[\'name\']) ?></li>\n<?php endforeach; ?>\n',
  'body > .card:not(:first-child)::after { content: "\\201C"; margin: 0 auto -1px; color: #ff00AA; }\n',
  'FROM debian:12-slim\nRUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \\\n && rm -rf /var/lib/apt/lists/*\n',
  '.PHONY: all\nall: $(OBJS)\n\t@$(CC) -o $@ $^ $(LDFLAGS)\n',
  'mov rax, [rbp-0x18]\nlea rdi, [rip+0x2004]\ncall 0x401136 <puts@plt>\njne .L3\n',
  '>+++++++++[<++++++++>-]<.>+++++++[<++++>-]<+.+++++++..+++.',
  'if(a){if(b){if(c){if(d){x();}}}}////====----****####____~~~~',
  'snake_case_name camelCaseName PascalCaseName SCREAMING_SNAKE kebab-case-name HTTPSConnection2Fa iOS17 v1.2.3-rc.4+build.5',
  '                                if (deep) {\n                                        return;\n                                }\n',
)

add('mixed case', 'ABCdefGHIjkl', 'aBcDeFgHiJ', 'XMLHttpRequest', 'éÉÈè ÀàÁ', 'ǄǅǆǇǈǉ', 'straßeSTRASSE', 'ʰªºʲ', 'ЙцуКЕН', 'ΑΒΓαβγ', 'aあAアa亜A', 'İiIı')

add(
  'special tokens',
  '<|endoftext|>', 'a<|endoftext|>b', '<|im_start|>system\nYou are kind.<|im_end|>\n', '<|fim_prefix|><|fim_middle|><|fim_suffix|>',
  '<|endofprompt|><|endoftext|><|endoftext|>', '<|start|>assistant<|channel|>final<|message|>hi<|return|>', '<|endoftext', '|endoftext|>', '<| endoftext |>',
  '<|ENDOFTEXT|>', '<s>[INST] hi [/INST]</s>', '<|reserved_200000|><|call|><|constrain|>', '中<|endoftext|>文\n<|endoftext|>\n',
)

add(
  'control characters',
  '\u0000', '\u0000\u0000\u0000', 'a\u0000b', '\u0001\u0002\u0003\u001b[31mred\u001b[0m', '\u007f\u007f', '\u0080\u009f', '\ufeff text', 'a\ufeffb',
  'a\u200bb\u200cc\u200dd', '\u00ad soft\u00adhyphen', '\ufffd\ufffd', '\ue000\uf8ff', '\ufffe\uffff', '\u{10ffff}', '\u{1d400}\u{1d401}', '\u2060\u2061', '\u061c\u2066x\u2069',
)

add(
  'long words',
  'a'.repeat(100), 'ab'.repeat(200), 'abc'.repeat(333), 'A'.repeat(257), 'Donau' + 'dampf'.repeat(40) + 'schiff', '='.repeat(300), '-'.repeat(79), '#'.repeat(6), '.'.repeat(1000),
  'é'.repeat(150), '中文'.repeat(150), 'あ'.repeat(200), '가나다'.repeat(60), 'ก'.repeat(120), 'न'.repeat(90), '"'.repeat(50), '('.repeat(40) + ')'.repeat(40), '\\'.repeat(33), 'xX'.repeat(100), '_'.repeat(65),
)

// Words that the vocabulary has none of, by a small generator, so that long texts need no space here.
function pseudo(seed, length, alphabet) {
  const letters = [...alphabet]
  let state = seed
  let text = ''
  while (text.length < length) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    text += letters[Math.floor((state / 2 ** 32) * letters.length)]
  }
  return text
}

add(
  'random',
  pseudo(1, 400, 'abcdefghijklmnopqrstuvwxyz'),
  pseudo(2, 400, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'),
  pseudo(3, 400, 'abc ABC 123 .,!?'),
  pseudo(4, 400, ' \n\t\r'),
  pseudo(5, 400, '的一是不了在人有我他这，。 '),
  pseudo(6, 400, "aA1'. \n/é中😀\u0301"),
  pseudo(7, 400, "stdmrevlSTDMREVL'’ "),
  pseudo(8, 400, '0123456789'),
  pseudo(9, 400, '!"#$%&()*+,-./:;<=>?@[]^_`{|}~'),
  pseudo(10, 400, 'αβγδεζηθικλμ ΑΒΓΔ'),
  pseudo(11, 400, 'あいうえおアイウエオ日本語、。'),
  pseudo(12, 400, '👩👨👧🏽🚀❤️\u200d '),
  pseudo(13, 2000, 'the quick brown fox, it jumps over 12 lazy dogs.\n'),
  pseudo(14, 400, '\u0301\u0308aeiouAEIOU '),
  pseudo(15, 400, 'กขคงจฉชซะาิีุู่้ '),
  pseudo(16, 400, 'कखगघङािीुू् ।'),
)

export default texts
