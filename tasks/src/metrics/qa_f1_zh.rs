//! `qa_f1_zh_score`: token F1 of LongBench's Chinese question answering.

use super::{Metric, MetricError, bag, jieba};
use crate::python::text::{is_punctuation, is_space, lower};

/// The Chinese punctuation list of `normalize_zh_answer`, without its ASCII full stop. `》` is in it, `《` is not.
const ZH_PUNCTUATION: &str = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏";

/// `qa_f1_zh_score` of THUDM/LongBench `metrics.py` on the words of jieba 0.42.1.
pub(crate) struct QaF1Zh;

impl Metric for QaF1Zh {
    fn id(&self) -> &'static str {
        "qa-f1-zh/jieba-0.42.1"
    }

    fn about(&self) -> &'static str {
        "token F1 over jieba words without punctuation and white space (LongBench qa_f1_zh_score)"
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        Ok(bag::f1(tokens(prediction), tokens(answer)))
    }
}

/// The normalized words of a text: segmented first, then lower-cased and stripped of punctuation and white space.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    jieba::cut(text).into_iter().map(normalize).filter(|token| !token.is_empty()).collect()
}

fn normalize(word: &str) -> String {
    let dropped = |c: &char| is_punctuation(*c) || ZH_PUNCTUATION.contains(*c) || is_space(*c);
    lower(word).chars().filter(|c| !dropped(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_punctuation_but_keeps_the_left_title_mark() {
        assert_eq!(tokens("《清华大学》，Ａ B。"), ["《", "清华大学", "ａ", "b"]);
        assert_eq!(QaF1Zh.score("清华大学.", &["清华大学".into()], &[]), Ok(1.0));
    }
}
