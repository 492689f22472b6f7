//! The embedded model: it is in the program exactly when its files are in the repository, and then it reads and
//! writes text.

use std::path::Path;

use kvsweep_engine::{Cpu, error::EngineError, session::Session, source::resolve};

use crate::parity::run;

#[test]
fn tiny_is_embedded_with_its_tokenizer() {
    let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny/config.json").is_file();
    let files = match resolve("tiny") {
        Ok(files) => files,
        Err(error) => {
            assert!(matches!(error, EngineError::NoEmbeddedModel) && !there, "{error}");
            return;
        }
    };
    assert!(there);
    let model = Session::<Cpu>::load(&files).unwrap();
    assert_eq!(model.name, "tiny");
    let tokenizer = model.tokenizer().unwrap();
    let text = "The quick brown fox, 42 times.";
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert!(tokenizer.vocab_size() <= model.config.vocab_size);
    assert!(!model.generation.eos_ids.is_empty());
    let (rows, answer) = run(&model, &ids, 4);
    assert!(rows.iter().flatten().all(|logit| logit.is_finite()));
    assert_eq!(answer.len(), 4);
}
