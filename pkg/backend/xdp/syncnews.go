package xdp

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
)

// Times and sizes of connection sync.
const (
	newsInterval = 100 * time.Millisecond
	walkSets     = 1 << 13 // of a table that are read at a time
	refreshShare = 3       // an entry is told of again after this share of its life: peers' copies must not end
	setsAhead    = 64      // that are read in one go, so that their cache misses overlap

	// unprovenNews is how many connections that may be made up are told of in a
	// newsInterval: of a flood's the others wait for the sweeper's next pass,
	// and peers still hear of the proven ones at once.
	unprovenNews = 10_000

	// notedNews and foundNews are how many entries are told of in a newsInterval
	// because the packet path has noted them, and because the sweeper has found
	// them: what is beyond stays noted, or is found again. A table of millions
	// that was adopted is told of in parts as well.
	notedNews = 1 << 15
	foundNews = 1 << 14
)

// news remembers what peers were told of each place of the tables, so that they
// are told of changes alone. The packet path notes which sets to look at; the
// sweeper looks at all of them, so that what a note missed is told too.
type news struct {
	flows, templates [2]tableNews // of IPv4 and of IPv6
	turn             int          // the family that is looked at first
	limits           newsLimits
	unprovenLeft     int // that may be told of in this newsInterval
	batch            connsync.Batch
}

// tableNews are the news of one table.
type tableNews struct {
	table table
	notes []uint64 // a byte for each set that the packet path has noted
	next  int      // word of notes to go on with
	view  peerView
	found foundSets
	sum   uint64 // see readAhead
}

// newsLimits are how many entries of each kind are told of in a newsInterval.
type newsLimits struct{ noted, found, unproven int }

func (b *Backend) newNews() *news {
	n := &news{limits: newsLimits{notedNews, foundNews, unprovenNews}, unprovenLeft: unprovenNews}
	notes := [2][2][]uint64{{b.dp.FlowNews, b.dp.FlowNews6}, {b.dp.TemplateNews, b.dp.TemplateNews6}}
	for i, t := range b.flowTables() {
		n.flows[i] = newTableNews(t, notes[0][i])
	}
	for i, t := range b.templateTables() {
		n.templates[i] = newTableNews(t, notes[1][i])
	}
	return n
}

func newTableNews(t table, notes []uint64) tableNews {
	return tableNews{table: t, notes: notes, view: make(peerView, t.sets()), found: newFoundSets(t.sets())}
}

// familyOf is the place of a table's news among those of both families.
func familyOf(t table) int {
	if t.isIPv6() {
		return 1
	}
	return 0
}

// TellNews implements [connsync.Backend].
func (b *Backend) TellNews(send func(*connsync.Batch)) (now func() (more bool), stop func()) {
	b.mu.Lock()
	b.news = b.newNews()
	b.applySettings()
	if err := b.dp.PrepareAbsorb(); err != nil {
		b.log.Warn("connections that peers tell of cannot be taken", "err", err)
	}
	b.mu.Unlock()
	var telling sync.Mutex // nothing older is told behind anything newer
	now = func() (more bool) {
		telling.Lock()
		defer telling.Unlock()
		batch := b.takeNews()
		if len(batch.Members) > 0 {
			send(batch)
		}
		return len(batch.Members) >= notedNews
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(newsInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now()
			case <-ctx.Done():
				return
			}
		}
	})
	return now, func() {
		cancel()
		done.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.news = nil
		b.applySettings()
	}
}

// takeNews reads the sets that the packet path has noted, and those in which the
// sweeper has found something, as far as the limits go. What it returns is valid
// until the next call.
func (b *Backend) takeNews() *connsync.Batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.news
	if n == nil {
		return new(connsync.Batch)
	}
	b.flowTables() // what has been read of them is old
	t := b.newTeller(&n.batch)
	n.unprovenLeft = n.limits.unproven
	n.turn ^= 1
	most := n.limits.noted
	isEnough := func() bool { return len(n.batch.Members) >= most }
	for i := range n.flows {
		of := &n.flows[i^n.turn]
		of.takeNoted(isEnough, func(set int) { n.tellFlows(t, of, set) })
	}
	if b.persistent {
		most = len(n.batch.Members) + n.limits.noted
		for i := range n.templates {
			of := &n.templates[i^n.turn]
			of.takeNoted(isEnough, func(set int) { n.tellTemplates(t, of, set) })
		}
	}
	most = len(n.batch.Members) + n.limits.found
	for i := range n.flows {
		templates, flows := &n.templates[i^n.turn], &n.flows[i^n.turn]
		templates.found.take(isEnough, func(set int) { n.tellTemplates(t, templates, set) })
		flows.found.take(isEnough, func(set int) { n.tellFlows(t, flows, set) })
	}
	return &n.batch
}

// takeNoted visits the sets that are noted, from a word of notes on and round,
// until it is enough. Each note is taken away before the set is visited: a change
// behind the visit is another note.
func (n *tableNews) takeNoted(isEnough func() bool, visit func(set int)) {
	var ahead [setsAhead]int
	sets, count := n.table.sets(), 0
	flush := func() {
		n.readAhead(ahead[:count])
		for _, set := range ahead[:count] {
			visit(set)
		}
		count = 0
	}
	for range n.notes {
		if count == 0 && isEnough() {
			return
		}
		i := n.next
		if n.next++; n.next == len(n.notes) {
			n.next = 0
		}
		if load64(&n.notes[i]) == 0 {
			continue
		}
		for word := atomic.SwapUint64(&n.notes[i], 0); word != 0; {
			at := bits.TrailingZeros64(word) / 8
			word &^= 0xff << (8 * at)
			if set := 8*i + at; set < sets {
				ahead[count] = set
				count++
			}
		}
		if count > setsAhead-8 {
			flush()
		}
	}
	flush()
}

// readAhead has the CPU fetch sets that are going to be visited. The sum is for
// the compiler, which leaves out what nobody uses.
func (n *tableNews) readAhead(sets []int) {
	sum := n.table.fetch(sets)
	for _, set := range sets {
		sum += uint64(n.view[set].word[0])
	}
	n.sum = sum
}

// findFlowNews notes the set of a flow if peers do not know the flow as it is.
func (b *Backend) findFlowNews(t table, set, way int, v bpf.FlowValue) {
	n := &b.news.flows[familyOf(t)]
	if isToldOf(v) && n.view[set].isNews(way, uint64(v), v.Seen(), refreshOf(uint32(b.dp.Settings.Timeout[v.Code()]))) {
		n.found.add(set)
	}
}

// findTemplateNews notes the set of a template if peers do not know the template
// as it is.
func (b *Backend) findTemplateNews(table table, set, way int, t bpf.TemplateValue) {
	n := &b.news.templates[familyOf(table)]
	if t.IsLive() && b.isTemplateNews(n, set, way, t) {
		n.found.add(set)
	}
}

func (b *Backend) isTemplateNews(n *tableNews, set, way int, t bpf.TemplateValue) bool {
	s := b.byIndex[b.dp.Reals[t.Real()].Service%bpf.Services]
	return s != nil && n.view[set].isNews(way, uint64(t), uint16(t.Expires()), refreshOf(ticks(s.conf.Persistence.Timeout)))
}

// tellFlows tells of what peers do not know yet of a set of flows. Of those that
// were never seen at work no more are told of than a flood of made-up ones may
// take, unless peers know them already.
func (n *news) tellFlows(t *teller, of *tableNews, set int) {
	known, isIPv6 := &of.view[set], of.table.isIPv6()
	words := of.table.wordsOf(set)
	for way := range bpf.Ways {
		v := bpf.FlowValue(load64(&words[bpf.Ways+way]))
		if !v.IsLive() || !known.isNews(way, uint64(v), v.Seen(), t.refresh[v.Code()]) {
			continue
		}
		isFree := v.IsProven() || known.isKnown(way, uint64(v))
		if !isFree && n.unprovenLeft == 0 {
			continue
		}
		key, client := load64(&words[way]), clientBytes(words, way, isIPv6)
		if bpf.FlowValue(load64(&words[bpf.Ways+way])).Nonce() != v.Nonce() {
			continue // the place has changed hands, and is noted
		}
		if !t.tellFlow(bpf.FlowKey(key), client, isIPv6, v) {
			continue
		}
		known.note(way, uint64(v), v.Seen())
		if !isFree {
			n.unprovenLeft--
		}
	}
}

// tellTemplates tells of what peers do not know yet of a set of templates.
func (n *news) tellTemplates(t *teller, of *tableNews, set int) {
	for way := range bpf.Ways {
		e := of.table.at(set, way)
		v := bpf.TemplateValue(load64(e.value))
		if !v.IsLive() {
			continue
		}
		e.key = e.keyNow()
		client := e.client()
		if bpf.TemplateValue(load64(e.value)).Nonce() != v.Nonce() || !t.b.isTemplateNews(of, set, way, v) {
			continue
		}
		if t.tellTemplate(e, client, v) {
			of.view[set].note(way, uint64(v), uint16(v.Expires()))
		}
	}
}
