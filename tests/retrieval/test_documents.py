"""Reading folders: ids, order, offsets, and every refusal with its place."""

import json

import pytest

from toolkit.errors import DataError
from toolkit.retrieval import Document, corpus_digest, read_folder
from toolkit.retrieval.html_text import html_to_text


def test_files_are_read_in_the_order_of_their_relative_path(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("# Two\n\ntext\n")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.jsonl").write_text('{"id": "r1", "text": "row one"}\n\n{"id": "r2", "text": "row two", "year": 3}\n')
    (tmp_path / "d.HTML").write_text("<p>four</p>")
    (tmp_path / "picture.png").write_bytes(b"\x89")
    (tmp_path / ".hidden.txt").write_text("no")
    assert read_folder(tmp_path) == [
        Document("a", "one"),
        Document("b/two", "# Two\n\ntext\n"),
        Document("r1", "row one"),
        Document("r2", "row two"),
        Document("d", "four"),
    ]


def test_offsets_count_the_characters_of_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffzwölf\r\nBoxkämpfer\r\n".encode())
    (document,) = read_folder(tmp_path)
    assert document.text == "zwölf\r\nBoxkämpfer\r\n"  # line ends as they are, byte order mark dropped


def test_a_json_string_may_hold_line_separators(tmp_path):
    text = "one\u2028two\x0bthree"
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "a", "text": text}, ensure_ascii=False), encoding="utf-8")
    assert read_folder(tmp_path)[0].text == text


def test_all_problems_are_named_at_once_with_file_and_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nnot \xff utf-8")
    (tmp_path / "b.txt").write_text(" \n")
    rows = ['{"id": "x", "text": "t"}', '{"id": 7, "text": "t"}', "[1]", "{oops", '{"id": "x", "text": "u"}']
    (tmp_path / "c.jsonl").write_text("\n".join(rows))
    (tmp_path / "d.html").write_text("<script>only()</script>")
    (tmp_path / "e.pdf").write_bytes(b"%PDF")
    (tmp_path / "f.jsonl").write_text("")
    (tmp_path / "g.jsonl").write_text('{"id": "g", "text": "half \\ud800"}')
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path)
    message = str(caught.value)
    for part in (
        "10 problems",
        "a.txt:2: not UTF-8",
        "b.txt: holds no text",
        "c.jsonl:2: id must be a non-empty string",
        "c.jsonl:3: found list",
        "c.jsonl:4: not JSON",
        "c.jsonl:5: id 'x' is already used by c.jsonl:1",
        "d.html: holds no text",
        "e.pdf: .pdf is not read",
        "f.jsonl: holds no row",
        "g.jsonl:1: document 'g' cannot be written as UTF-8",
    ):
        assert part in message


def test_the_same_id_from_two_files_is_refused(tmp_path):
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "a.txt").write_text("y")
    with pytest.raises(DataError, match=r"a\.txt: id 'a' is already used by a\.md"):
        read_folder(tmp_path)


def test_links_that_leave_the_folder_are_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (inside / "a.txt").write_text("a")
    (inside / "again.txt").symlink_to(inside / "a.txt")
    assert [document.id for document in read_folder(inside)] == ["a", "again"]
    (inside / "b.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"b\.txt: links to .*secret\.txt, outside the folder"):
        read_folder(inside)
    (inside / "b.txt").unlink()
    (inside / "up").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(DataError, match="up: links to"):
        read_folder(inside)


@pytest.mark.parametrize("make", [lambda path: path / "missing", lambda path: path])
def test_a_missing_or_empty_folder_is_refused(tmp_path, make):
    with pytest.raises(DataError):
        read_folder(make(tmp_path))


def test_html_keeps_paragraphs_and_drops_scripts():
    html = """<html><head><title>Pump</title><style>p {}</style><script>if (a<b) x()</script></head>
    <body><h1>Prime &amp; run</h1><p>Open the
       valve.<br>Wait   <b>10</b>&nbsp;s.</p><ul><li>one</li><li>two</li></ul>
    <table><tr><td>a</td><td>b</td></tr></table><pre>x
      y</pre><p>end"""
    assert html_to_text(html) == (
        "Pump\n\nPrime & run\n\nOpen the valve.\nWait 10 s.\n\none\ntwo\n\na b\n\nx\n      y\n\nend"
    )


def test_the_corpus_digest_sees_ids_texts_order_and_where_one_ends():
    a, b = Document("a", "bc"), Document("d", "e")
    digests = {corpus_digest(c) for c in ([a, b], [b, a], [a], [Document("ab", "c"), b], [Document("a", "b"), b])}
    assert len(digests) == 5
    assert corpus_digest([a, b]) == corpus_digest([Document("a", "bc"), Document("d", "e")])


def test_a_document_needs_an_id():
    with pytest.raises(DataError, match="empty id"):
        Document("", "text")
