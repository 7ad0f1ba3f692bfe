//! The measured texts, a megabyte each.

const BYTES: usize = 1024 * 1024;

const WORDS: &str = "the account of billing service reserve quota it was delivered and settled before morning \
    because customers need predictable prices tokens streams understand connection nevertheless however small \
    bright river machine learning she said that nobody had counted them twice";

const CLAUSES: &str = "服务在提交之前先锁定账户 余额不足时整笔扣费都会被拒绝 网关在调用前检查配额 调用结束后再上报用量 \
    免费额度用完之后才动用余额 数据库确认写入以后我们才回复调用方 缓存可以随时丢失 月初零点为每位用户重新开放额度 \
    充值成功的通知可能迟到也可能重复 流式输出按照实际交付的内容计费 审计每天凌晨核对全部账目 河边的小城下着细雨 \
    孩子们在操场上放风筝 她把旧照片一张一张地夹进书里 模型的版本在生效时间之后才会使用";

pub fn all() -> Vec<(&'static str, String)> {
    let code = [include_str!("../../src/app/mod.rs"), include_str!("../../src/config/mod.rs"), include_str!("main.rs")]
        .concat();
    let base64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    vec![
        ("English", english(BYTES)),
        ("Rust", code.repeat(BYTES / code.len() + 1)),
        ("Chinese", chinese(BYTES)),
        ("Han at random, in clauses", made_of(BYTES, |random| (0..12).map(|_| han(random)).chain(['，']).collect())),
        ("base64", made_of(BYTES, |random| char::from(base64[random.below(64)]).into())),
        ("hexadecimal numbers", made_of(BYTES, |random| format!("{:x} ", random.next()))),
        ("letters at random, one word", made_of(BYTES, |random| char::from(base64[26 + random.below(26)]).into())),
        ("one letter, one word", "a".repeat(BYTES)),
        ("blanks", " ".repeat(BYTES)),
        ("hyphens", "-".repeat(BYTES)),
    ]
}

pub fn english(bytes: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let ends = [" ", " ", " ", " ", " ", ", ", ". ", "'s ", ".\n\n"];
    made_of(bytes, |random| [random.one_of(&words), random.one_of(&ends)].concat())
}

fn chinese(bytes: usize) -> String {
    let clauses: Vec<&str> = CLAUSES.split_whitespace().collect();
    let ends = ["，", "，", "，", "。", "；", "\n"];
    made_of(bytes, |random| [random.one_of(&clauses), random.one_of(&ends)].concat())
}

fn han(random: &mut Random) -> char {
    u32::try_from(0x4e00 + random.below(0x5000)).ok().and_then(char::from_u32).unwrap_or('中')
}

fn made_of(bytes: usize, mut piece: impl FnMut(&mut Random) -> String) -> String {
    let (mut random, mut text) = (Random(12_345), String::with_capacity(bytes + 64));
    while text.len() < bytes {
        text.push_str(&piece(&mut random));
    }
    text
}

/// A xorshift generator with a fixed seed, so that the texts are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }
}
