package guard

import (
	"unicode"
	"unicode/utf8"
)

// MaxText is the most bytes that [Text] returns.
const MaxText = 200

// ellipsis marks a cut; its bytes count.
const ellipsis = "…"

// Text makes s fit for a log line, a mail header or a page: at most
// [MaxText] bytes of valid UTF-8, every run of white space one blank, every
// other character that does not print (control and format characters,
// terminal escapes, text direction overrides, invalid bytes) a question
// mark. What was cut off is marked by an ellipsis.
func Text(s string) string {
	b := make([]byte, 0, min(len(s), MaxText)+utf8.UTFMax)
	cut := 0 // the longest prefix of b that leaves room for the ellipsis
	blank := false
	for _, r := range s {
		if unicode.IsSpace(r) {
			blank = len(b) > 0
			continue
		}
		if blank {
			b = append(b, ' ')
			blank = false
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		b = utf8.AppendRune(b, r)
		if len(b) > MaxText {
			return string(b[:cut]) + ellipsis
		}
		if len(b) <= MaxText-len(ellipsis) {
			cut = len(b)
		}
	}
	return string(b)
}
