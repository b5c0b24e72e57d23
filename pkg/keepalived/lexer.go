package keepalived

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// MaxSize is how many bytes a file, with what it includes, may have.
const MaxSize = 16 << 20

// Bounds of what a file may unfold to.
const (
	maxIncludes = 32      // files that include one another
	maxLine     = 4 << 10 // bytes of a line after its definitions are replaced
	maxReplaced = 100     // definitions replaced in one line
	maxFeeds    = 1000    // sequences and definitions that are open at a time
)

// maxPieces is how many lines, statements and braces are read. Tests lower it.
var maxPieces = 1 << 20

// Files is the file system that a configuration is read from.
type Files interface {
	// Glob lists the files whose names match a pattern, sorted.
	Glob(pattern string) ([]string, error)
	// Read gives the contents of a file.
	Read(name string) ([]byte, error)
}

// position is a line of a file.
type position struct {
	file string
	line int
}

// piece is what lies between two braces of a line, or a brace.
type piece struct {
	position
	text    string
	isGlued bool // a comment sign inside a word ended the text
}

// feed is where lines come from: a file, a definition of several lines, a
// sequence. The last one that was opened is read first.
type feed interface {
	next(x *lexer) (line string, ok bool)
}

// fileFeed reads a file line by line.
type fileFeed struct {
	name  string
	lines []string
	at    int
	depth int // how many files lead to it
}

// filesFeed opens the files that an include names, one after the other.
type filesFeed struct {
	names []string
	at    position // of the include
}

func (f *filesFeed) next(x *lexer) (string, bool) {
	if len(f.names) == 0 {
		return "", false
	}
	name := f.names[0]
	f.names = f.names[1:]
	x.at = f.at
	if err := x.open(name); err != nil {
		x.note("include", printable(err.Error()), Lost)
	}
	return "", true
}

// textFeed reads the lines of a definition.
type textFeed struct{ lines []string }

// lexer turns files into pieces.
type lexer struct {
	files  Files
	id     string // of the lines that begin with @
	name   string // of this instance
	defs   map[string][]string
	feeds  []feed
	rest   string
	at     position
	glued  bool
	size   int // bytes read
	pieces int
	report func(Finding)
	err    error
}

func newLexer(files Files, o Options, report func(Finding)) *lexer {
	return &lexer{
		files: files, id: o.ID, name: o.Instance, report: report,
		defs: map[string][]string{"_HASH": {"#"}, "_BANG": {"!"}, "_INSTANCE": {o.Instance}},
	}
}

// note accounts for a line that is no statement.
func (x *lexer) note(keyword, text string, l Level) {
	x.report(Finding{File: x.at.file, Line: x.at.line, Keyword: keyword, Text: text, Level: l})
}

// open reads a file that follows at once.
func (x *lexer) open(name string) error {
	data, err := x.files.Read(name)
	if err != nil {
		return err
	}
	if x.size += len(data); x.size > MaxSize {
		return fmt.Errorf("%s: with what it includes more than %d MiB", printable(name), MaxSize>>20)
	}
	f := &fileFeed{name: name, lines: strings.Split(string(data), "\n")}
	if parent := x.file(); parent != nil {
		f.depth = parent.depth + 1
	}
	if f.depth == maxIncludes {
		return fmt.Errorf("%s: more than %d files include one another", printable(name), maxIncludes)
	}
	x.feeds = append(x.feeds, f)
	return nil
}

func (f *fileFeed) next(x *lexer) (string, bool) {
	if f.at == len(f.lines) {
		return "", false
	}
	f.at++
	x.at = position{f.name, f.at}
	line := strings.TrimRight(f.lines[f.at-1], "\r")
	if strings.IndexByte(line, 0) >= 0 {
		x.note("line", "keepalived ignores a line with a zero byte", Harmless)
		return "", true
	}
	line, x.glued = stripComment(line)
	return line, true
}

func (f *textFeed) next(*lexer) (string, bool) {
	if len(f.lines) == 0 {
		return "", false
	}
	line := f.lines[0]
	f.lines = f.lines[1:]
	return line, true
}

// line gives the next line that is not empty.
func (x *lexer) line() (string, bool) {
	for len(x.feeds) > 0 && x.err == nil {
		if x.pieces++; x.pieces > maxPieces {
			x.err = fmt.Errorf("%s:%d: more than %d lines and statements", printable(x.at.file), x.at.line, maxPieces)
			return "", false
		}
		last := len(x.feeds) - 1
		top := x.feeds[last]
		line, ok := top.next(x)
		if !ok {
			x.feeds = append(x.feeds[:last], x.feeds[last+1:]...)
			if f := x.file(); f != nil {
				x.at = position{f.name, f.at}
			}
			continue
		}
		if line != "" {
			return line, true
		}
	}
	return "", false
}

// file is the file that is read now.
func (x *lexer) file() *fileFeed {
	for i := len(x.feeds) - 1; i >= 0; i-- {
		if f, ok := x.feeds[i].(*fileFeed); ok {
			return f
		}
	}
	return nil
}

// next gives the next piece.
func (x *lexer) next() (piece, bool) {
	for x.err == nil {
		text := x.rest
		x.rest = ""
		if text == "" {
			line, ok := x.line()
			if !ok {
				return piece{}, false
			}
			if text = x.expand(line); text == "" || x.include(text) {
				continue
			}
		}
		if x.pieces++; x.pieces > maxPieces {
			x.err = fmt.Errorf("%s:%d: more than %d lines and statements", printable(x.at.file), x.at.line, maxPieces)
			break
		}
		text, x.rest = cutAtBrace(text)
		if text = strings.TrimRight(text, " \t"); text != "" {
			return piece{x.at, text, x.glued && x.rest == ""}, true
		}
	}
	return piece{}, false
}

// cutAtBrace takes a brace, or the text before one, off a line.
func cutAtBrace(text string) (first, rest string) {
	text = strings.TrimLeft(text, " \t")
	if text == "" {
		return "", ""
	}
	if text[0] == '{' || text[0] == '}' {
		return text[:1], strings.TrimLeft(text[1:], " \t")
	}
	isQuoted := false
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"':
			isQuoted = !isQuoted
			if isQuoted && strings.IndexByte(text[i+1:], '"') < 0 {
				return text, ""
			}
		case !isQuoted && (c == '{' || c == '}'):
			return text[:i], text[i:]
		}
	}
	return text, ""
}

// expand follows @id, definitions and sequences. The result is empty where
// nothing is left of the line.
func (x *lexer) expand(line string) string {
	for range maxReplaced {
		if line != "" && line[0] == '@' {
			if line = x.selected(line); line == "" {
				return ""
			}
		}
		switch {
		case line != "" && line[0] == '$' && x.define(line):
			return ""
		case strings.HasPrefix(line, "~SEQ"), strings.HasPrefix(line, "~LST"):
			x.sequence(line)
			return ""
		case strings.HasPrefix(line, "~"), !strings.Contains(line, "$"):
			return line
		}
		replaced, changed := x.replace(line)
		if !changed {
			return line
		}
		line, _ = stripComment(replaced)
		if !strings.HasPrefix(line, "@") && !strings.Contains(line, "$") && !strings.HasPrefix(line, "~") {
			return line
		}
	}
	return line
}

// selected is what follows @id or @^id on a line that is for this
// instance.
func (x *lexer) selected(line string) string {
	id, others := strings.CutPrefix(line[1:], "^")
	end := strings.IndexAny(id, " \t")
	if end < 0 {
		x.note("@", "nothing follows the identifier of a configuration", Harmless)
		return ""
	}
	id, rest := id[:end], strings.TrimLeft(id[end:], " \t")
	if isOwn := x.id != "" && id == x.id; isOwn == others {
		if x.id == "" {
			x.note("@"+id, "left out: without --node the line is for another director", Changed)
		} else {
			x.note("@"+id, "for another director than "+x.id, Harmless)
		}
		return ""
	}
	return rest
}

// include opens the files that an include names. It reports whether the line
// was one.
func (x *lexer) include(text string) bool {
	rest, ok := strings.CutPrefix(text, "include")
	if !ok || rest == "" {
		return false
	}
	if len(rest) > 1 && strings.IndexByte("rmwba", rest[0]) >= 0 {
		rest = rest[1:] // what is strict about missing files
	}
	if strings.IndexByte(" \t", rest[0]) < 0 {
		return false
	}
	pattern := strings.Trim(rest, " \t\"")
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(x.at.file), pattern)
	}
	names, err := x.glob(pattern)
	switch {
	case err != nil:
		x.note("include", printable(err.Error()), Lost)
	case len(names) == 0:
		x.note("include", "no file matches", Harmless)
	default:
		x.note("include", fmt.Sprintf("%d files read", len(names)), Mapped)
	}
	x.feeds = append(x.feeds, &filesFeed{names: names, at: x.at})
	return true
}

// glob lists the files of a pattern, those of every word in braces.
func (x *lexer) glob(pattern string) ([]string, error) {
	var all []string
	for _, p := range alternatives(pattern) {
		names, err := x.files.Glob(p)
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	return all, nil
}

// alternatives makes "a1" and "a2" of "a{1,2}", as GLOB_BRACE of glob(3) does.
// A pattern that stands for too many is left as it is.
func alternatives(pattern string) []string {
	all, done := []string{pattern}, 0
	for done < len(all) {
		words, ok := cutBraces(all[done])
		if !ok {
			done++
			continue
		}
		if all = slices.Replace(all, done, done+1, words...); len(all) > maxFeeds {
			return []string{pattern}
		}
	}
	return all
}

// cutBraces puts each word of the first braces in their place.
func cutBraces(pattern string) (all []string, ok bool) {
	start := strings.IndexByte(pattern, '{')
	depth, from := 0, start+1
	for i := max(start, 0); i < len(pattern) && start >= 0; i++ {
		switch c := pattern[i]; {
		case c == '{':
			depth++
		case depth == 1 && (c == ',' || c == '}'):
			all = append(all, pattern[from:i])
			from = i + 1
			if c == ',' {
				break
			}
			for n, word := range all {
				all[n] = pattern[:start] + word + pattern[i+1:]
			}
			return all, true
		case c == '}':
			depth--
		}
	}
	return nil, false
}

// directory is ${_PWD}.
func (x *lexer) directory() string {
	if f := x.file(); f != nil {
		return path.Dir(f.name)
	}
	return "."
}
