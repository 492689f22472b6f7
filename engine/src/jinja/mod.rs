//! Jinja templates from untrusted files, bounded in steps and in memory.
//!
//! minijinja counts steps, but thirty doublings of a text exceed any memory in a hundred steps. Here every text or
//! list that an operation makes is paid for, before it is made, out of an allowance. Operators cannot be replaced in
//! minijinja, so those that make something (`+`, `*`, `~`, slices) are compiled as calls of filters of our own, which
//! pay and then do what minijinja does.

mod python;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Expression, State, Value, context, escape_formatter, filters,
    functions,
    machinery::{
        CodeGenerator, Instruction, Instructions, Token, Vm, WhitespaceConfig, make_string_output, parse,
        tokenize,
    },
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};
use minijinja_contrib::pycompat;

/// Steps after which a template is taken for an endless one. The longest published templates need some ten thousand.
const FUEL: u64 = 1_000_000;
/// Bytes that one rendering may make, everything in between included.
const ALLOWANCE: u64 = 256 << 20;
/// Bytes of an item of a list, its own text not counted.
const ITEM: u64 = 64;

/// What a template may still make.
#[derive(Clone)]
struct Allowance(Arc<AtomicU64>);

impl Allowance {
    fn pay(&self, bytes: u64) -> Result<(), Error> {
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)) {
            Ok(_) => Ok(()),
            Err(_) => Err(refuse(format!("it makes more than {} MiB of text and lists", ALLOWANCE >> 20))),
        }
    }
}

fn refuse(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Bytes of a value as text and as a list; a little above the allowance where it is more than that.
fn size(value: &Value) -> u64 {
    struct Count(u64);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len() as u64;
            if self.0 > ALLOWANCE { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let items = value.len().filter(|_| value.as_str().is_none()).unwrap_or(0) as u64;
    if items > ALLOWANCE / ITEM {
        return ALLOWANCE + 1;
    }
    let mut count = Count(items * ITEM);
    match value.as_str() {
        Some(text) => text.len() as u64,
        // It ends early where the count is above the allowance, which is then the answer.
        None => write!(count, "{value}").map_or(ALLOWANCE + 1, |()| count.0),
    }
}

/// Bytes that a filter or method makes of its arguments at most; the first is what it is applied to.
fn made(name: &str, arguments: &[Value]) -> u64 {
    let sum: u64 = arguments.iter().map(size).fold(0, u64::saturating_add);
    let text = |index: usize| arguments.get(index).and_then(Value::as_str);
    let items = |count: usize| count as u64 * ITEM;
    // Widths and counts that are numbers: `indent(8)`, `batch(3)`, `tojson(indent=2)`.
    let number = arguments
        .iter()
        .skip(1)
        .flat_map(|one| {
            let named = ["width", "indent", "count"].into_iter().filter_map(|name| one.get_attr(name).ok());
            named.chain([one.clone()]).collect::<Vec<_>>()
        })
        .filter_map(|one| one.as_i64())
        .map(i64::unsigned_abs)
        .max()
        .unwrap_or(0);
    let of_text = match (name, text(0), text(1)) {
        ("replace", Some(whole), Some(from)) => {
            (whole.matches(from).count() as u64).saturating_mul(text(2).map_or(0, |to| to.len() as u64))
        }
        ("join", _, separator) => {
            let count = arguments.first().and_then(Value::len).or(text(0).map(str::len)).unwrap_or(0) as u64;
            // The method is applied to the separator.
            let count = count.max(arguments.get(1).and_then(Value::len).unwrap_or(0) as u64);
            let separator = separator.map_or(0, str::len).max(text(0).map_or(0, str::len)) as u64;
            count.saturating_mul(separator)
        }
        ("indent" | "tojson", ..) => sum.saturating_mul(number),
        ("batch" | "slice", ..) => number.saturating_mul(ITEM),
        ("split" | "rsplit", Some(whole), Some(separator)) if !separator.is_empty() => {
            items(whole.matches(separator).count() + 1)
        }
        ("split" | "rsplit", Some(whole), _) => items(whole.split_whitespace().count()),
        ("lines" | "splitlines", Some(whole), _) => items(whole.matches('\n').count() + 1),
        ("ljust" | "rjust" | "center" | "zfill", ..) => number.saturating_mul(4),
        ("list", Some(whole), _) => items(whole.chars().count()),
        ("format", Some(pattern), _) => {
            let fields = pattern.matches(['%', '{']).count() as u64;
            let digits = pattern.split(|c: char| !c.is_ascii_digit());
            let width = digits.filter(|run| !run.is_empty()).map(|run| run.parse().unwrap_or(u64::MAX)).max();
            let width = width.unwrap_or(0).max(if pattern.contains('*') { number } else { 0 });
            fields.saturating_mul(width.saturating_add(sum))
        }
        _ => 0,
    };
    // Bytes that one byte becomes: escaped, as JSON, in another case.
    let growth = match name {
        "escape" | "e" | "tojson" | "pprint" => 8,
        "upper" | "lower" | "title" | "capitalize" => 3,
        _ => 1,
    };
    sum.saturating_mul(growth).saturating_add(of_text)
}

/// The operators as minijinja has them.
struct Operator {
    /// The filter that stands for it; no template can spell it.
    name: &'static str,
    arguments: u16,
    compute: LazyLock<Result<Expression<'static, 'static>, Error>>,
}

static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);
static ADD: Operator =
    Operator { name: "+", arguments: 2, compute: LazyLock::new(|| PLAIN.compile_expression("a + b")) };
static MULTIPLY: Operator =
    Operator { name: "*", arguments: 2, compute: LazyLock::new(|| PLAIN.compile_expression("a * b")) };
static CONCATENATE: Operator =
    Operator { name: "~", arguments: 2, compute: LazyLock::new(|| PLAIN.compile_expression("a ~ b")) };
static SLICE: Operator =
    Operator { name: "[:]", arguments: 4, compute: LazyLock::new(|| PLAIN.compile_expression("a[b:c:d]")) };

impl Operator {
    fn made(&self, arguments: &[Value]) -> u64 {
        let sizes: Vec<u64> = arguments.iter().map(size).collect();
        let numbers = arguments.iter().filter(|one| one.is_number()).count();
        match (self.name, numbers, arguments) {
            (_, 2, [_, _]) => 0,
            // A text or a list, times a number.
            ("*", 1, [a, b]) => {
                let times = a.as_i64().or(b.as_i64()).map_or(u64::MAX, i64::unsigned_abs);
                sizes.iter().fold(0, |most, &size| size.max(most)).saturating_mul(times)
            }
            _ => sizes.into_iter().fold(0, u64::saturating_add),
        }
    }

    fn apply(&self, arguments: &[Value]) -> Result<Value, Error> {
        let compute = self.compute.as_ref().map_err(|error| refuse(error.to_string()))?;
        let at = |index: usize| match (self.name, arguments.get(index)) {
            ("~", Some(value)) => python::text(value).map(Value::from),
            (_, value) => Ok(value.cloned().unwrap_or_default()),
        };
        let [a, b, c, d] = [at(0)?, at(1)?, at(2)?, at(3)?];
        compute.eval(context! { a, b, c, d })
    }
}

/// Renders a template whose functions and options `prepare` adds.
///
/// # Errors
/// What the template does wrong, with its line; one that is endless or makes too much.
pub(crate) fn render(
    source: &str,
    context: Value,
    prepare: impl FnOnce(&mut Environment<'_>),
) -> Result<String, Error> {
    let source = without_generation(source);
    let (instructions, blocks) = compile(&source)?;
    let all = blocks.values().chain([&instructions]);
    let raw = all.flat_map(|part| (0..part.len() as u32).filter_map(|i| part.get(i))).map(|one| match one {
        Instruction::EmitRaw(text) => text.len() as u64,
        _ => 0,
    });
    // Text of the template itself goes out unpaid, at most once a step.
    let fuel = FUEL.min(4 * ALLOWANCE / raw.max().unwrap_or(0).max(1));
    let mut environment = environment(fuel);
    prepare(&mut environment);
    let mut text = String::new();
    Vm::new(&environment)
        .eval(&instructions, context, &blocks, &mut make_string_output(&mut text), AutoEscape::None)
        .map(drop)?;
    Ok(text)
}

/// Checks that a template parses.
///
/// # Errors
/// What is wrong with it, with its line.
pub(crate) fn check(source: &str) -> Result<(), Error> {
    compile(&without_generation(source)).map(drop)
}

/// A template with `{% generation %}` of transformers, which marks what the assistant says and changes no text, as
/// `{% with %}`: both are scopes.
fn without_generation(source: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut done = 0;
    let mut at_start = false;
    // What does not make tokens is told by the parser.
    for (token, span) in tokenize(source, false, SyntaxConfig, whitespace()).map_while(Result::ok) {
        let instead = match token {
            Token::Ident("generation") if at_start => Some("with"),
            Token::Ident("endgeneration") if at_start => Some("endwith"),
            _ => None,
        };
        if let Some(instead) = instead {
            out.push_str(&source[done..span.start_offset as usize]);
            out.push_str(instead);
            done = span.end_offset as usize;
        }
        at_start = matches!(token, Token::BlockStart);
    }
    if done == 0 { Cow::Borrowed(source) } else { Cow::Owned(out + &source[done..]) }
}

type Compiled<'s> = (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>);

/// The name of every template; minijinja escapes HTML where a name ends in .html or .json: this has no ending.
const NAME: &str = "default";

/// Trims blocks as transformers does.
fn whitespace() -> WhitespaceConfig {
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true }
}

fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    check_constants(source)?;
    let tree = parse(source, NAME, SyntaxConfig, whitespace())?;
    let mut code = CodeGenerator::new(NAME, source);
    code.compile_stmt(&tree);
    let (mut instructions, mut blocks) = code.finish();
    for part in blocks.values_mut().chain([&mut instructions]) {
        for index in 0..part.len() as u32 {
            let Some(instruction) = part.get_mut(index) else { continue };
            let operator = match instruction {
                Instruction::Add => &ADD,
                Instruction::Mul => &MULTIPLY,
                Instruction::StringConcat => &CONCATENATE,
                Instruction::Slice => &SLICE,
                _ => continue,
            };
            // The largest id stands for none: the filter is looked up each time.
            *instruction = Instruction::ApplyFilter(operator.name, Some(operator.arguments), u8::MAX);
        }
    }
    Ok((instructions, blocks))
}

/// Refuses a literal text times a number: minijinja multiplies literals while it compiles.
fn check_constants(source: &str) -> Result<(), Error> {
    // What does not make tokens is told by the parser.
    let tokens: Vec<_> = tokenize(source, false, SyntaxConfig, whitespace())
        .map_while(Result::ok)
        .map(|(token, span)| (token, span.start_line))
        .collect();
    for (index, (token, line)) in tokens.iter().enumerate() {
        let before = || operand(tokens[..index].iter().rev().map(|(token, _)| token));
        let after = || operand(tokens[index + 1..].iter().map(|(token, _)| token));
        // `f(*list)`
        let is_splat = matches!(
            index.checked_sub(1).map(|index| &tokens[index].0),
            Some(Token::ParenOpen | Token::Comma)
        );
        if matches!(token, Token::Mul) && !is_splat && (before() || after()) {
            return Err(refuse(format!("a text times a number is not computed (line {line})")));
        }
    }
    Ok(())
}

/// Whether the operand that comes next is, or holds in its parentheses, a literal text.
fn operand<'a>(tokens: impl Iterator<Item = &'a Token<'a>>) -> bool {
    let mut depth = 0_i64;
    for token in tokens {
        match token {
            Token::Str(_) | Token::String(_) => return true,
            Token::ParenOpen | Token::ParenClose => {
                depth += if matches!(token, Token::ParenOpen) { 1 } else { -1 };
                if depth == 0 {
                    return false;
                }
            }
            _ if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(fuel));
    let allowance = Allowance(Arc::new(AtomicU64::new(ALLOWANCE)));
    for operator in [&ADD, &MULTIPLY, &CONCATENATE, &SLICE] {
        let allowance = allowance.clone();
        environment.add_filter(operator.name, move |arguments: Rest<Value>| {
            allowance.pay(operator.made(&arguments))?;
            operator.apply(&arguments)
        });
    }
    for (name, filter) in making() {
        let allowance = allowance.clone();
        environment.add_filter(name, move |state: &State, arguments: Rest<Value>| {
            allowance.pay(made(name, &arguments))?;
            filter.call(state, &arguments)
        });
    }
    // Not of Jinja, and lists that are made while they are read.
    for name in ["chain", "zip"] {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
    environment.add_test("iterable", |value: Value| python::is_iterable(&value));
    environment.add_test("sequence", |value: Value| python::is_sequence(&value));
    environment.add_filter("length", |value: Value| python::length(&value));
    environment.add_filter("count", |value: Value| python::length(&value));
    let paying = allowance.clone();
    environment.add_function("range", move |state: &State, arguments: Rest<Value>| {
        // minijinja itself bounds its length.
        let range = Value::from_function(functions::range).call(state, &arguments)?;
        paying.pay(range.len().unwrap_or(0) as u64 * ITEM)?;
        Ok::<_, Error>(range)
    });
    let paying = allowance.clone();
    environment.add_function("dict", move |state: &State, arguments: Rest<Value>| {
        paying.pay(made("dict", &arguments))?;
        Value::from_function(functions::dict).call(state, &arguments)
    });
    let paying = allowance.clone();
    environment.set_unknown_method_callback(move |state, value, method, arguments| {
        let all: Vec<Value> = [value.clone()].into_iter().chain(arguments.iter().cloned()).collect();
        paying.pay(made(method, &all))?;
        match python::method(value, method, arguments) {
            Err(error) if error.kind() == ErrorKind::UnknownMethod => {
                pycompat::unknown_method_callback(state, value, method, arguments)
            }
            done => done,
        }
    });
    environment.set_formatter(move |out, state, value| {
        allowance.pay(size(value))?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Map => Ok(out.write_str(&python::text(value)?)?),
            _ => escape_formatter(out, state, value),
        }
    });
    environment
}

/// The filters that make texts and lists.
fn making() -> Vec<(&'static str, Value)> {
    macro_rules! filters {
        ($($name:ident),*) => { vec![$((stringify!($name), Value::from_function(filters::$name))),*] };
    }
    let mut all = filters![
        batch, capitalize, dictsort, escape, format, groupby, indent, items, join, lines, list, lower, map,
        pprint, reject, rejectattr, replace, reverse, select, selectattr, slice, sort, split, title, trim,
        unique, upper
    ];
    all.push(("string", Value::from_function(|value: Value| python::text(&value))));
    all.push((
        "tojson",
        Value::from_function(|value: Value, ensure_ascii: Option<Value>, args: Kwargs| {
            python::tojson(&value, ensure_ascii, args)
        }),
    ));
    all.push(("e", Value::from_function(filters::escape)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str) -> Result<String, Error> {
        render(source, context! { text => "é-1-2", list => [3, 1, 2] }, |_| ())
    }

    #[test]
    fn operators_do_what_minijinja_does() {
        for source in [
            "{{ 1 + 2 }} {{ 1.5 + 2 }} {{ 'a' + text }} {{ list + [9] }} {{ (list + list)|length }}",
            "{{ 3 * 4 }} {{ text * 3 }} {{ 2 * list }} {{ -3 * 2 }} {{ 0.5 * 3 }}",
            "{{ 1 ~ 'b' ~ list ~ none ~ missing }} {{ text.split('-', 1)|join('+') }}",
            "{{ text[1:] }} {{ text[::-1] }} {{ list[:2] }} {{ text[-2:4] }} {{ list[5:] }}",
            "{{ list|sort|join('+') }} {{ text|replace('-', '') }} {{ ' x '.strip() }}",
            "{{ '%5.1f|%s' | format(1.25, 'x') }} {{ text|indent(2) }}",
            "{% set ns = namespace(n=0) %}{% for x in range(5) %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
            "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('ab') }} {{ dict(a=1).a }}",
            "{% set block %}  {{ text }}\n{% endset %}{{ block|trim }}",
            "{{ 1 + 'a' }}",
            "{{ text * 1.5 }}",
            "{{ list ~ (1/0) }}",
        ] {
            let mut plain = Environment::new();
            plain.set_trim_blocks(true);
            plain.set_lstrip_blocks(true);
            plain.set_unknown_method_callback(pycompat::unknown_method_callback);
            let context = context! { text => "é-1-2", list => [3, 1, 2] };
            match (run(source), plain.render_str(source, context)) {
                (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{source}"),
                (Err(ours), Err(theirs)) => assert_eq!(ours.kind(), theirs.kind(), "{source}"),
                (ours, theirs) => panic!("{source}: {ours:?}, {theirs:?}"),
            }
        }
    }

    #[test]
    fn python_is_spoken() {
        let is = |source: &str, expected: &str| assert_eq!(run(source).unwrap(), expected, "{source}");
        is(
            "{{ ['a', \"it's\", 1.0, none, true, {'k': 'v\\n'}] }}",
            "['a', \"it's\", 1.0, None, True, {'k': 'v\\n'}]",
        );
        is("{% set l = ['a'] %}{{ 'x' ~ l }} {{ l|string }}", "x['a'] ['a']");
        is("{% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "z1a2");
        for (value, iterable, sequence) in [
            ("none", false, false),
            ("1", false, false),
            ("true", false, false),
            ("'a'", true, true),
            ("[1]", true, true),
            ("{}", true, true),
            ("missing", true, true),
        ] {
            is(
                &format!("{{{{ {value} is iterable }}}} {{{{ {value} is sequence }}}}"),
                &format!(
                    "{} {}",
                    if iterable { "True" } else { "False" },
                    if sequence { "True" } else { "False" }
                ),
            );
        }
        is("{{ missing|length }}", "0");
        is("{% set l = ['x', 'y'] %}{% macro f(a, b) %}{{ b }}{{ a }}{% endmacro %}{{ f(*l) }}", "yx");
        is("{{ 'a b  c '.rsplit() }} {{ 'a b  c'.rsplit(none, 1) }}", "['a', 'b', 'c'] ['a b', 'c']");
        is("{{ 'a-b-c'.rsplit('-', 1) }} {{ 'a-b-c'.rsplit('-') }}", "['a-b', 'c'] ['a', 'b', 'c']");
        is("{{ 'a-b'.partition('-')|list }} {{ 'a-b-c'.rpartition('-')[0] }}", "['a', '-', 'b'] a-b");
        is("{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}", "bcab");
        is(
            "{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} [{{ 'a'.center(4) }}] [{{ 'ab'.center(5) }}]",
            "007 -007 [ a  ] [  ab ]",
        );
        is("{{ [3, 1].index(1) }} {{ 'éab'.index('b') }} {{ ''.isdigit() }}", "1 2 False");
        assert!(run("{{ 'a'.index('b') }}").is_err());
        assert!(run("{{ 'a'.nothing() }}").is_err());
    }

    #[test]
    fn json_is_pythons() {
        let is = |source: &str, expected: &str| assert_eq!(run(source).unwrap(), expected, "{source}");
        is("{{ {'z': [1, '<é>&\"', 2.0], 'a': none}|tojson }}", r#"{"z": [1, "<é>&\"", 2.0], "a": null}"#);
        is("{{ ['é\\n']|tojson(ensure_ascii=true) }}", r#"["\u00e9\n"]"#);
        is(
            "{{ {'b': 1, 'a': [true, {}]}|tojson(indent=2, sort_keys=true) }}",
            "{\n  \"a\": [\n    true,\n    {}\n  ],\n  \"b\": 1\n}",
        );
        is("{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}", r#"[1,{"a":2}]"#);
        assert!(run("{{ missing|tojson }}").is_err());
    }

    #[test]
    fn generation_marks_and_changes_no_text() {
        let source = "{% for x in list %}{%- generation -%} {{ x }} {%- endgeneration -%};{% endfor %}";
        assert_eq!(run(source).unwrap(), "3;1;2;");
        let scoped = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}";
        assert_eq!(run(scoped).unwrap(), "21");
        assert_eq!(
            run("{% raw %}{% generation %}{% endraw %}{{ 'generation' }}").unwrap(),
            "{% generation %}generation"
        );
        assert!(check("{% generation %}").is_err() && check("{% endgeneration %}").is_err());
    }

    #[test]
    fn no_template_makes_more_than_it_may() {
        let grow = |set: &str| {
            format!("{{% set ns = namespace(x='ab', l=[1]) %}}{{% for i in range(64) %}}{set}{{% endfor %}}")
        };
        let refused = [
            grow("{% set ns.x = ns.x ~ ns.x %}"),
            grow("{% set ns.x = ns.x + ns.x %}"),
            grow("{% set ns.x = ns.x * 9 %}"),
            grow("{% set ns.l = ns.l + ns.l %}"),
            grow("{% set ns.l = ns.l * 9 %}"),
            grow("{% set ns.x = [ns.x, ns.x]|join %}"),
            grow("{% set ns.x = ''.join([ns.x, ns.x]) %}"),
            grow("{% set ns.x = ns.x|replace('', ns.x) %}"),
            grow("{% set ns.x = ns.x.replace('a', ns.x) %}"),
            grow("{% set ns.x = (ns.x ~ '\\\\')|tojson|tojson %}"),
            grow("{% set ns.x = '{}{}'.format(ns.x, ns.x) %}"),
            grow("{% set ns.x = ['%s%s'|format(ns.x, ns.x)]|string %}"),
            grow("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
            grow("{% set ns.x = dict(a=ns.x, b=ns.x) %}"),
            "{{ '%999999999d'|format(1) }}".to_owned(),
            "{{ '%*d'|format(999999999, 1) }}".to_owned(),
            "{{ '{:999999999}'.format(1) }}".to_owned(),
            "{{ 'a\nb'|indent(1000000000) }}".to_owned(),
            "{{ 'a\nb'|indent(width=1000000000) }}".to_owned(),
            "{{ [1]|tojson(indent=1000000000) }}".to_owned(),
            "{{ [1]|batch(1000000000, 'x')|list }}".to_owned(),
            "{{ [1]|slice(1000000000)|list }}".to_owned(),
            "{{ 'a'.ljust(1000000000) }}".to_owned(),
            "{{ 'a' * 100000000 }}".to_owned(),
            "{{ 3 * ('a' ~ 'b') }}".to_owned(),
            "{{ text * 100000000 }}".to_owned(),
            "{{ [1] * 1000000000 }}".to_owned(),
            "{% for i in range(90000) %}{% set x = range(90000) %}{% endfor %}".to_owned(),
            format!("{{% for i in range(90000) %}}{}{{% endfor %}}", "x".repeat(100_000)),
        ];
        for source in refused {
            let started = std::time::Instant::now();
            let error = run(&source).expect_err(&source).to_string();
            let told = ["it makes more than 256 MiB", "is not computed (line 1)", "fuel", "too large"];
            assert!(told.iter().any(|part| error.contains(part)), "{source:.200}: {error}");
            assert!(started.elapsed().as_secs() < 30, "{source:.200}");
        }
    }

    #[test]
    fn long_conversations_are_within_bounds() {
        let source =
            "{% for m in messages %}{% set text = '<s>' + m ~ '</s>' %}{{ text|trim }}\n{% endfor %}";
        let messages = vec!["word ".repeat(20_000); 100];
        let length = render(source, context! { messages }, |_| ()).unwrap().len();
        assert_eq!(length, 100 * (100_000 + 8));
    }
}
