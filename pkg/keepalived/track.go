package keepalived

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// trackOther reads an entry of track_script, track_file, track_process or track_bfd: the
// name of a block at the top of the file, and a weight of its own.
func (m *mapper) trackOther(r *router, kind string, t *Statement) {
	tables := map[string]map[string]*Statement{"track_script": m.scripts, "track_file": m.files, "track_process": m.process, "track_bfd": m.bfd}
	block := tables[kind][t.Word]
	if t.misses(block, kind, t.Word) {
		return
	}
	weight := ownWeight(t)
	var key, text string
	switch kind {
	case "track_script":
		key, text = "track_exec", m.scriptText(block, weight)
	case "track_file":
		key, text = "track_file", m.fileText(block, weight)
	case "track_bfd":
		key, text = "track_bfd", m.bfdText(block, weight)
	default:
		key, text = "track_process", processText(block, weight)
	}
	isWeighted := kind != "track_process" && weightAtEnd.MatchString(text)
	switch {
	case text == "":
		t.mark(Harmless, "keepalived ignores it")
		block.mark(Harmless, "keepalived ignores it")
	case isWeighted && kind != "track_file" && r.priority == ownerPriority:
		t.mark(Harmless, textOwner)
		block.mark(Harmless, textOwner)
	case slices.Contains(r.lines, pair{key, text}):
		t.mark(Harmless, "tracked already")
	default:
		t.mark(Mapped, "")
		block.mark(Mapped, "")
		r.lines = append(r.lines, pair{key, text})
		if isWeighted {
			r.weighted = append(r.weighted, t)
		}
	}
}

// weightAtEnd matches an entry of the output that changes the priority.
var weightAtEnd = regexp.MustCompile(`, weight: -?\d+(, reverse: true)?$`)

// weighting is how a tracked thing counts; nil where a statement does not say.
type weighting struct {
	by         *int
	isReversed *bool
}

// within is a weighting where what it does not say itself is the block's.
func (w weighting) within(block weighting) weighting {
	return weighting{first(w.by, block.by), first(w.isReversed, block.isReversed)}
}

// words are the keys of it, behind others; by is the weight where none is given.
func (w weighting) words(by int) (words string) {
	if n := or(by, w.by); n != 0 {
		words = fmt.Sprintf(", weight: %d", n)
	}
	if or(false, w.isReversed) {
		words += ", reverse: true"
	}
	return words
}

// readWeighting reads a weight and the word behind it.
func readWeighting(words []string) (w weighting) {
	if len(words) == 0 {
		return w
	}
	n, err := strconv.Atoi(words[0])
	if err != nil || n < -254 || n > 254 {
		return w
	}
	w.by = ptr(max(-maxWeight, min(maxWeight, n)))
	if len(words) > 1 && (words[1] == "reverse" || words[1] == "noreverse") {
		w.isReversed = ptr(words[1] == "reverse")
	}
	return w
}

// ownWeight is the weight that stands behind the name.
func ownWeight(t *Statement) weighting {
	if t.arg(0) != "weight" {
		return weighting{}
	}
	return readWeighting(t.Args[1:])
}

// blockWeight is the weight that a block gives.
func blockWeight(c *Statement) weighting {
	w := readWeighting(c.Args)
	if w.by == nil {
		c.mark(Harmless, "keepalived ignores %s here", quote(c.arg(0)))
		return w
	}
	w.isReversed = ptr(c.arg(1) == "reverse")
	c.mark(Mapped, "")
	return w
}

// scriptText is a vrrp_script as an entry of track_exec.
func (m *mapper) scriptText(s *Statement, weight weighting) string {
	var argv []string
	var interval, timeout *time.Duration
	var fall, rise *uint64
	var own weighting
	init := false
	for _, c := range s.Block {
		switch {
		case c.keyword == nil:
		case c.Word == "script":
			argv = scriptArgv(s, c)
		case c.Word == "interval":
			interval = first(seconds(c, time.Microsecond), interval)
		case c.Word == "timeout":
			timeout = first(seconds(c, time.Microsecond), timeout)
		case c.Word == "fall":
			fall = first(count(c, 1, maxFall), fall)
		case c.Word == "rise":
			rise = first(count(c, 1, maxFall), rise)
		case c.Word == "weight":
			own = blockWeight(c).within(own)
		case c.Word == "init_fail":
			c.mark(Mapped, "")
			init = true
		case c.Word == "user":
			m.markUser(c)
		}
	}
	if argv == nil {
		return ""
	}
	every, _ := clamp(or(time.Second, interval), minDelay, maxDelay)
	words := "argv: " + scalars(argv) + ", interval: " + duration(every)
	if timeout != nil {
		limit, _ := clamp(*timeout, minTimeout, maxTimeout)
		words += ", timeout: " + duration(limit)
	}
	for _, k := range []struct {
		key   string
		value *uint64
	}{{"fall", fall}, {"rise", rise}} {
		if k.value != nil {
			words += fmt.Sprintf(", %s: %d", k.key, *k.value)
		}
	}
	if init {
		words += ", init_fail: true"
	}
	return words + weight.within(own).words(0)
}

// commandLength is how much of a command's name the kernel keeps; pgrep finds
// no longer one.
const commandLength = 15

// scriptArgv reads the command of a vrrp_script. One that sends signal 0 asks
// whether a process is there: nobody, as whom lvx runs it, may signal nothing
// but may look.
func scriptArgv(s, c *Statement) []string {
	argv, _, ok := command(c)
	if !ok || !isPlain(c, argv) {
		c.mark(Harmless, "keepalived cannot read the command")
		return nil
	}
	words := argv
	if words[0] == "/usr/bin/env" {
		words = words[1:]
	}
	if len(words) == 3 && filepath.Base(words[0]) == "killall" && words[1] == "-0" {
		name := filepath.Base(words[2])
		name = name[:min(len(name), commandLength)]
		c.mark(Mapped, "asks pgrep -x %s: it runs as nobody, who may not signal", quote(name))
		return []string{"/usr/bin/pgrep", "-x", name}
	}
	isNobody := slices.ContainsFunc(s.children("user"), func(u *Statement) bool { return u.arg(0) == "nobody" })
	if !isNobody && !slices.Contains([]string{"pgrep", "pidof"}, filepath.Base(words[0])) {
		c.mark(Changed, "runs as nobody: it must not need root")
	}
	c.mark(Mapped, "")
	return argv
}

// fileText is a track_file as an entry of lvx's.
func (m *mapper) fileText(s *Statement, weight weighting) string {
	path, own := "", weighting{}
	for _, c := range s.Block {
		switch {
		case c.keyword == nil:
		case c.Word == "file":
			c.mark(Mapped, "")
			path = c.arg(0)
		case c.Word == "weight":
			own = blockWeight(c).within(own)
		case c.Word == "init_file" && (c.arg(0) == "" || c.arg(0) == "0"):
			c.mark(Harmless, "a file that is not there counts as 0")
		case c.Word == "init_file":
			c.mark(Changed, "lvx makes no file: one that is not there counts as 0")
		}
	}
	if !strings.HasPrefix(path, "/") {
		return ""
	}
	return "path: " + scalar(path) + weight.within(own).words(defaultFileWeight)
}

// processText is a vrrp_track_process as an entry of track_process.
func processText(s *Statement, weight weighting) string {
	name, own, quorum := "", weighting{}, uint64(1)
	for _, c := range s.Block {
		if c.keyword == nil {
			continue
		}
		switch c.Word {
		case "process":
			words := strings.Fields(strings.Join(c.Args, " "))
			if len(words) > 0 {
				name = words[0]
			}
			if len(words) > 1 {
				c.mark(Changed, "lvx compares the command's name, not its arguments")
			}
			c.mark(Mapped, "")
		case "weight":
			own = blockWeight(c).within(own)
		case "quorum":
			quorum = or(quorum, count(c, 1, maxFall))
		case "quorum_max", "param_match":
			c.mark(Lost, "lvx counts whether enough of them run")
		case "delay", "terminate_delay", "fork_delay":
			c.mark(Changed, "lvx believes at once what it sees")
		case "full_command":
			c.mark(Changed, "lvx compares the command's name, not its arguments")
		}
	}
	if name == "" {
		return ""
	}
	words := "name: " + scalar(name)
	if quorum != 1 {
		words += fmt.Sprintf(", quorum: %d", quorum)
	}
	return words + weight.within(own).words(0)
}
