package keepalived

import (
	"regexp"
	"strings"
)

// yamlKey is how a line of lvx.yaml begins.
var yamlKey = regexp.MustCompile(`^[A-Za-z_]+\s*:(\s|$)`)

// Recognize reports whether a text is a configuration of keepalived rather than
// lvx's YAML: the first line that can be only one of them decides.
func Recognize(text []byte) bool {
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if yamlKey.MatchString(line) || line == "---" {
			return false
		}
		if strings.HasPrefix(line, "!") {
			return true
		}
		line, _ = stripComment(line)
		if strings.HasPrefix(line, "@") {
			_, line, _ = strings.Cut(line, " ")
			line = strings.TrimLeft(line, " \t")
		}
		word, _ := cutAtBrace(line)
		words := strings.Fields(word)
		if len(words) == 0 {
			continue
		}
		if _, ok := grammar[words[0]]; ok || words[0] == "include" || strings.HasPrefix(words[0], "$") {
			return true
		}
	}
	return false
}
