package keepalived

import (
	"fmt"
	"strings"
)

// maxDepth bounds how deep blocks may lie in one another.
const maxDepth = 32

// Statement is a keyword with what follows it, and its block.
type Statement struct {
	position
	Word  string
	Args  []string
	Block []*Statement

	raw      string   // the text, for commands
	number   int      // of it among all
	keyword  *keyword // nil: unknown where it stands
	isGlued  bool
	isHidden bool // its word may be a piece of a password
	verdict  *Finding
}

// arg is the nth word behind the keyword, or "".
func (s *Statement) arg(n int) string {
	if n < len(s.Args) {
		return s.Args[n]
	}
	return ""
}

// misses reports whether keepalived does not find the block that s names, since
// it looks when it reads s, and says so.
func (s *Statement) misses(block *Statement, kind, name string) bool {
	switch {
	case block == nil:
		s.mark(Harmless, "keepalived knows no %s %s", kind, quote(name))
	case block.number > s.number:
		s.mark(Harmless, "keepalived ignores it: the %s %s stands further down, in line %d", block.Word, quote(name), block.line)
	default:
		return false
	}
	return true
}

// mark says what became of s; the first verdict stays.
func (s *Statement) mark(l Level, format string, args ...any) {
	if s.verdict == nil {
		s.overrule(l, format, args...)
	}
}

// overrule says what became of s, whatever was said before.
func (s *Statement) overrule(l Level, format string, args ...any) {
	word := s.Word
	switch {
	case s.isHidden:
		word = "(hidden)"
	case word == "":
		word = `""`
	}
	s.verdict = &Finding{File: s.file, Line: s.line, Keyword: word, Text: fmt.Sprintf(format, args...), Level: l}
}

// markBlock says the same of everything in the block of s that has no verdict.
func (s *Statement) markBlock(l Level, format string, args ...any) {
	for _, c := range s.Block {
		c.mark(l, format, args...)
		c.markBlock(l, format, args...)
	}
}

// children lists the statements of the block that begin with a word.
func (s *Statement) children(word string) []*Statement {
	var found []*Statement
	for _, c := range s.Block {
		if c.Word == word && c.keyword != nil {
			found = append(found, c)
		}
	}
	return found
}

// parser makes statements of pieces, as keepalived's process_stream() does.
type parser struct {
	x      *lexer
	count  int // of statements
	peeked *piece
	secret position // of the last password
}

// next gives the next piece that has words.
func (p *parser) next() (piece, bool) {
	if p.peeked != nil {
		t := *p.peeked
		p.peeked = nil
		return t, true
	}
	return p.x.next()
}

// statement makes a statement of a piece.
func (p *parser) statement(t piece) *Statement {
	words := splitWords(t.text)
	if len(words) == 0 {
		words = []string{`"`}
	}
	p.count++
	return &Statement{
		number: p.count, position: t.position, Word: words[0], Args: words[1:], raw: t.text, isGlued: t.isGlued,
		isHidden: t.position == p.secret,
	}
}

// block reads statements up to the closing brace or the end. mustOpen says
// that the opening brace has not been seen yet.
func (p *parser) block(words map[string]keyword, depth int, mustOpen bool) []*Statement {
	var all []*Statement
	for {
		t, ok := p.next()
		if !ok {
			return all
		}
		isFirst := mustOpen
		mustOpen = false
		switch {
		case t.text == "{" && isFirst:
			continue
		case t.text == "{" && len(all) > 0:
			last := all[len(all)-1]
			last.Block = append(last.Block, p.unknownBlock(depth+1)...)
			p.blameBlock(last, depth)
			continue
		case t.text == "{":
			continue
		case t.text == "}" && depth > 0:
			return all
		case t.text == "}":
			p.x.report(Finding{File: t.file, Line: t.line, Keyword: "}", Text: "closes nothing", Level: Harmless})
			continue
		}
		s := p.statement(t)
		all = append(all, s)
		k, known := words[s.Word]
		if !known {
			continue
		}
		s.keyword = &k
		if isSecret(s.Word) {
			p.secret = t.position
		}
		switch {
		case depth >= maxDepth:
		case k.values:
			s.Block = p.values(k.words)
		case k.block != nil:
			s.Block = p.block(k.block, depth+1, true)
		}
	}
}

// blameBlock says what a block is that keepalived does not expect.
func (p *parser) blameBlock(s *Statement, depth int) {
	switch {
	case s.keyword == nil && depth == 0:
		s.mark(Harmless, "keepalived does not know this block")
		s.markBlock(Harmless, "in a block that keepalived does not know")
	case s.keyword == nil:
		s.mark(Lost, "keepalived does not know this block, and takes its closing brace for that of the block around it; left out")
		s.markBlock(Lost, "in a block that keepalived does not know")
	default:
		s.markBlock(Lost, "in a block where keepalived expects none")
	}
}

// unknownBlock reads a block of which no keyword is known.
func (p *parser) unknownBlock(depth int) []*Statement {
	var all []*Statement
	for {
		t, ok := p.next()
		switch {
		case !ok || t.text == "}":
			return all
		case t.text == "{" && depth >= maxDepth:
		case t.text == "{":
			inner := p.unknownBlock(depth + 1)
			if len(all) > 0 {
				last := all[len(all)-1]
				last.Block = append(last.Block, inner...)
			} else {
				all = inner
			}
		default:
			s := p.statement(t)
			if isSecret(s.Word) {
				p.secret = t.position
			}
			all = append(all, s)
		}
	}
}

// split makes a statement of every word.
func (s *Statement) split() []*Statement {
	all := []*Statement{s}
	for _, word := range s.Args {
		c := *s
		c.Word, c.Args = word, nil
		all[len(all)-1].isGlued = false // the comment is at the end
		all = append(all, &c)
	}
	s.Args = nil
	return all
}

// values reads the lines of a block of values, as keepalived's
// alloc_value_block() does, or their words, as its read_value_block() does.
func (p *parser) values(isWords bool) []*Statement {
	var all []*Statement
	mustOpen := true
	for {
		t, ok := p.next()
		switch {
		case !ok || t.text == "}":
			return all
		case t.text == "{" && mustOpen:
		case t.text == "{":
			p.x.report(Finding{File: t.file, Line: t.line, Keyword: "{", Text: "opens nothing", Level: Harmless})
		default:
			line := []*Statement{p.statement(t)}
			if isWords {
				line = line[0].split()
			}
			for _, s := range line {
				s.keyword = &valueKeyword
			}
			all = append(all, line...)
		}
		mustOpen = false
	}
}

var valueKeyword = keyword{level: Mapped}

// isSecret reports whether a keyword is followed by a password.
func isSecret(word string) bool {
	return strings.HasPrefix(word, "auth_") || word == "password" || word == "key"
}

// parseFile reads a file and what it includes.
func parseFile(files Files, name string, o Options, report func(Finding)) ([]*Statement, error) {
	x := newLexer(files, o, report)
	if err := x.open(name); err != nil {
		return nil, err
	}
	p := &parser{x: x}
	all := p.block(grammar, 0, false)
	if x.err != nil {
		return nil, x.err
	}
	return all, nil
}
