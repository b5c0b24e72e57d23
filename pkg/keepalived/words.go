package keepalived

import "strings"

const blanks = " \t\f\v\r\n"

// stripComment takes the comment and the blanks around it off a line, as
// decomment() in keepalived's lib/parser.c does. A # or ! ends the line
// wherever it stands outside double quotes; a backslash before it keeps it.
// isGlued reports whether the comment began inside a word. A backslash at the
// end of the line stays there, without the blanks before it.
func stripComment(line string) (text string, isGlued bool) {
	var out strings.Builder
	line = strings.TrimLeft(line, " \t")
	isQuoted, continues := false, false
scan:
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '"':
			isQuoted = !isQuoted
		case c == '\\' && i+1 == len(line):
			continues = true
			break scan
		case c == '\\' && !isQuoted && (line[i+1] == '#' || line[i+1] == '!'):
			i++
			c = line[i]
		case c == '\\':
			out.WriteByte(c)
			i++
			c = line[i]
		case !isQuoted && (c == '#' || c == '!'):
			isGlued = i > 0 && !strings.ContainsRune(blanks, rune(line[i-1]))
			break scan
		}
		out.WriteByte(c)
	}
	text = strings.TrimRight(out.String(), " \t")
	if continues {
		text += `\`
	}
	return text, isGlued
}

// splitWords splits a statement as keepalived's alloc_strvec() does: at
// blanks, with "several words" as one. What follows a quote that is not closed
// is dropped.
func splitWords(text string) []string {
	var words []string
	for {
		text = strings.TrimLeft(text, blanks)
		if text == "" {
			return words
		}
		if text[0] == '"' {
			word, rest, closed := strings.Cut(text[1:], `"`)
			if !closed {
				return words
			}
			words = append(words, word)
			text = rest
			continue
		}
		end := strings.IndexAny(text, blanks+`"`)
		if end < 0 {
			end = len(text)
		}
		words = append(words, text[:end])
		text = text[end:]
	}
}

// splitCommand splits the text of a command as keepalived's
// alloc_strvec_quoted_escaped() does: quotes of both kinds, which may begin
// inside a word, and backslashes. escapes says whether a backslash is
// interpreted or kept.
func splitCommand(text string, escapes bool) (words []string, ok bool) {
	for {
		text = strings.TrimLeft(text, blanks)
		if text == "" {
			return words, true
		}
		var word string
		if word, text, ok = nextWord(text, escapes); !ok {
			return nil, false
		}
		words = append(words, word)
	}
}

// nextWord takes one word off a command.
func nextWord(text string, escapes bool) (word, rest string, ok bool) {
	var out strings.Builder
	var quote byte
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '\\' && i+1 == len(text):
			return "", "", false
		case c == '\\' && !escapes:
			out.WriteString(text[i : i+2])
			i += 2
			continue
		case c == '\\':
			char, n := unescape(text[i+1:])
			out.WriteByte(char)
			i += 1 + n
			continue
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && strings.IndexByte(blanks, c) >= 0:
			return out.String(), text[i:], true
		default:
			out.WriteByte(c)
		}
		i++
	}
	return out.String(), "", quote == 0
}

// unescape gives the character that stands behind a backslash, and how many
// bytes it takes there.
func unescape(text string) (char byte, taken int) {
	hex := func(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20) }
	octal := func(c byte) bool { return c >= '0' && c <= '7' }
	switch c := text[0]; {
	case c == 'x' && len(text) > 1 && isHex(text[1]):
		for taken = 1; taken < len(text) && taken <= 2 && isHex(text[taken]); taken++ {
			char = char<<4 | byte(hex(text[taken]))
		}
		return char, taken
	case c == 'c' && len(text) > 1:
		return text[1] & 0x1f, 2
	case octal(c):
		for ; taken < len(text) && taken < 3 && octal(text[taken]); taken++ {
			char = char<<3 + text[taken] - '0'
		}
		return char, taken
	case strings.IndexByte("abEfnrtv", c) >= 0:
		return "\a\b\x1b\f\n\r\t\v"[strings.IndexByte("abEfnrtv", c)], 1
	}
	return text[0], 1
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
