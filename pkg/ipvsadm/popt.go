package ipvsadm

import "strings"

// scanner finds the options of a command line as popt does: short options in
// bundles, values glued to them or as the next word, long names in full.
type scanner struct {
	words  []string
	next   int    // the word to look at next
	chars  string // what is left of a bundle of short options
	others []string
	ended  bool // "--" was seen
}

// found is an option with its value.
type found struct {
	*spec
	value string
	given bool // whether there is a value
}

// word is the word that was looked at last, for errors.
func (s *scanner) word() string { return s.words[s.next-1] }

// option finds the next option. Without one the spec is nil; words that
// belong to no option are in others then. why is what is wrong with the word.
func (s *scanner) option() (f found, why string) {
	for s.chars == "" {
		if s.next == len(s.words) {
			return found{}, ""
		}
		word := s.words[s.next]
		s.next++
		switch {
		case s.ended || len(word) < 2 || word[0] != '-':
			s.others = append(s.others, word)
		case word == "--":
			s.ended = true
		case word[1] == '-':
			return s.long(word[2:])
		default:
			s.chars = word[1:]
		}
	}
	c := s.chars[0]
	s.chars = s.chars[1:]
	for i := range specs {
		if specs[i].short != c {
			continue
		}
		f.spec = &specs[i]
		if f.spec.value != noValue && s.chars != "" {
			f.value, f.given = strings.TrimPrefix(s.chars, "="), true
			s.chars = ""
			return f, ""
		}
		return s.valued(f)
	}
	return found{}, "unknown option"
}

func (s *scanner) long(name string) (f found, why string) {
	name, value, given := strings.Cut(name, "=")
	for i := range specs {
		if specs[i].long != name {
			continue
		}
		f.spec = &specs[i]
		if !given {
			return s.valued(f)
		}
		if f.spec.value == noValue {
			return found{}, "option does not take an argument"
		}
		f.value, f.given = value, true
		return f, ""
	}
	return found{}, "unknown option"
}

// valued takes the next word as the option's value, if it has one.
func (s *scanner) valued(f found) (found, string) {
	switch {
	case f.spec.value == noValue:
	case s.next == len(s.words):
		if f.spec.value == hasValue {
			return found{}, "missing argument"
		}
	case f.spec.value == mayHaveValue && strings.HasPrefix(s.words[s.next], "-"):
	default:
		f.value, f.given = s.words[s.next], true
		s.next++
	}
	return f, ""
}
