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

	// walkSets and walkEntries bound what is read of a table at a time. An empty table
	// is read in few parts: a director that joins has read its own before the peer
	// fills it, and does not send the peer's entries back.
	walkSets    = 1 << 16
	walkEntries = 1 << 15

	refreshShare = 3  // an entry is told of again after this share of its life: peers' copies must not end
	setsAhead    = 64 // that are read in one go, so that their cache misses overlap

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
	left  int      // words of notes that have not been looked at in this round
	noted []int    // sets whose notes have been taken, to be visited
	view  peerView
	found foundSets
	sum   uint64 // see readAhead
}

// newsLimits are how many entries of each kind are told of in a newsInterval.
type newsLimits struct{ noted, found, unproven int }

func (b *Backend) newNews() *news {
	if b.views != nil {
		b.views.forget()
	}
	views := b.viewsOfPeers()
	n := &news{limits: newsLimits{notedNews, foundNews, unprovenNews}, unprovenLeft: unprovenNews}
	notes := [2][2][]uint64{{b.dp.FlowNews, b.dp.FlowNews6}, {b.dp.TemplateNews, b.dp.TemplateNews6}}
	for i, t := range b.flowTables() {
		n.flows[i] = newTableNews(t, notes[0][i], views.flows[i])
	}
	for i, t := range b.templateTables() {
		n.templates[i] = newTableNews(t, notes[1][i], views.templates[i])
	}
	return n
}

func newTableNews(t table, notes []uint64, view peerView) tableNews {
	return tableNews{table: t, notes: notes, view: view, found: newFoundSets(t.sets())}
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
	b.telling.Lock()
	b.mu.Lock()
	b.news = b.newNews()
	b.applySettings()
	if err := b.dp.PrepareAbsorb(); err != nil {
		b.log.Warn("connections that peers tell of cannot be taken", "err", err)
	}
	b.mu.Unlock()
	b.telling.Unlock()
	now = func() (more bool) {
		b.telling.Lock()
		defer b.telling.Unlock()
		batch := b.takeNews()
		if len(batch.Members) > 0 {
			send(batch)
		}
		return len(batch.Members) >= notedNews || b.hasNotesLeft()
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
		b.telling.Lock()
		defer b.telling.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.news = nil
		b.applySettings()
	}
}

// takeNews reads the sets that the packet path has noted, and those in which the
// sweeper has found something, as far as the limits go. The batch is valid until the
// next call. One call at a time: see telling.
func (b *Backend) takeNews() *connsync.Batch {
	n, persistent := b.beginNews()
	if n == nil {
		return new(connsync.Batch)
	}
	for {
		isRound := n.lookForNotes(persistent)
		if isWhole := b.tellNoted(n, persistent, isRound); isWhole {
			return &n.batch
		}
	}
}

// beginNews begins a round over all notes.
func (b *Backend) beginNews() (n *news, persistent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.news == nil {
		return nil, false
	}
	n = b.news
	n.batch.Reset()
	n.unprovenLeft = n.limits.unproven
	n.turn ^= 1
	for i := range n.flows {
		n.flows[i].left, n.templates[i].left = len(n.flows[i].notes), 0
		if b.persistent {
			n.templates[i].left = len(n.templates[i].notes)
		}
	}
	return n, b.persistent
}

// tellNoted visits the noted sets, and behind the last ones of a round, or when it is
// enough, those in which the sweeper has found something. Then the batch is whole.
func (b *Backend) tellNoted(n *news, persistent, isRound bool) (isWhole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flowTables() // what has been read of them is old
	t := b.newTeller(&n.batch)
	most := n.limits.noted
	isEnough := func() bool { return len(n.batch.Members) >= most }
	for i := range n.flows {
		of := &n.flows[i^n.turn]
		of.visitNoted(isEnough, func(set int) { n.tellFlows(t, of, set) })
	}
	isWhole = isRound || isEnough()
	if persistent {
		most = len(n.batch.Members) + n.limits.noted
		for i := range n.templates {
			of := &n.templates[i^n.turn]
			of.visitNoted(isEnough, func(set int) { n.tellTemplates(t, of, set) })
		}
	}
	if !isWhole {
		return false
	}
	most = len(n.batch.Members) + n.limits.found
	for i := range n.flows {
		templates, flows := &n.templates[i^n.turn], &n.flows[i^n.turn]
		templates.found.take(isEnough, func(set int) { n.tellTemplates(t, templates, set) })
		flows.found.take(isEnough, func(set int) { n.tellFlows(t, flows, set) })
	}
	return true
}

// hasNotesLeft reports whether the latest takeNews has left notes to the next.
func (b *Backend) hasNotesLeft() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.news == nil {
		return false
	}
	for _, tables := range [2][2]tableNews{b.news.flows, b.news.templates} {
		if tables[0].left+tables[1].left+len(tables[0].noted)+len(tables[1].noted) > 0 {
			return true
		}
	}
	return false
}

// lookForNotes has each table look for notes, and reports whether the round is over. In a
// large table that takes milliseconds: the backend is not locked meanwhile.
func (n *news) lookForNotes(persistent bool) (isRound bool) {
	isRound = true
	for i := range n.flows {
		n.flows[i].takeNotes(n.limits.noted)
		isRound = isRound && n.flows[i].left == 0
		if persistent {
			n.templates[i].takeNotes(n.limits.noted)
			isRound = isRound && n.templates[i].left == 0
		}
	}
	return isRound
}

// takeNotes moves sets with notes into noted, from a word of notes on and round, until
// there are as many as can be told of. Each note is taken away before the set is
// visited: a change behind the visit is another note.
func (n *tableNews) takeNotes(most int) {
	sets := n.table.sets()
	for n.left > 0 && len(n.noted) < most {
		empty := min(wordsWithout(n.notes[n.next:]), n.left)
		n.next, n.left = (n.next+empty)%len(n.notes), n.left-empty
		if n.left == 0 {
			break
		}
		i := n.next
		n.next, n.left = (i+1)%len(n.notes), n.left-1
		for word := atomic.SwapUint64(&n.notes[i], 0); word != 0; {
			at := bits.TrailingZeros64(word) / 8
			word &^= 0xff << (8 * at)
			if set := 8*i + at; set < sets {
				n.noted = append(n.noted, set)
			}
		}
	}
}

// visitNoted visits the noted sets until it is enough. Those that are left come first
// the next time.
func (n *tableNews) visitNoted(isEnough func() bool, visit func(set int)) {
	left := n.noted
	for len(left) > 0 && !isEnough() {
		part := left[:min(setsAhead, len(left))]
		n.readAhead(part)
		for _, set := range part {
			visit(set)
		}
		left = left[len(part):]
	}
	n.noted = append(n.noted[:0], left...)
}

// wordsWithout is how many words there are before the first with a note. They are
// looked at eight at a time: of millions of sets a few have news.
func wordsWithout(notes []uint64) (n int) {
	for ; n+8 <= len(notes); n += 8 {
		w := notes[n : n+8 : n+8]
		if load64(&w[0])|load64(&w[1])|load64(&w[2])|load64(&w[3])|load64(&w[4])|load64(&w[5])|load64(&w[6])|load64(&w[7]) != 0 {
			break
		}
	}
	for n < len(notes) && load64(&notes[n]) == 0 {
		n++
	}
	return n
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
