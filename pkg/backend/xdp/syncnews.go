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
	flows, templates           peerView
	nextFlows, nextTemplates   int // words of notes to go on with
	foundFlows, foundTemplates foundSets
	limits                     newsLimits
	unprovenLeft               int // that may be told of in this newsInterval
	latest                     int // entries that were told of in the newsInterval before
}

// newsLimits are how many entries of each kind are told of in a newsInterval.
type newsLimits struct{ noted, found, unproven int }

func newNews(flowPlaces, templatePlaces int) *news {
	return &news{
		flows: newPeerView(flowPlaces), templates: newPeerView(templatePlaces),
		foundFlows: newFoundSets(flowPlaces / bpf.Ways), foundTemplates: newFoundSets(templatePlaces / bpf.Ways),
		limits: newsLimits{notedNews, foundNews, unprovenNews}, unprovenLeft: unprovenNews,
	}
}

// TellNews implements [connsync.Backend].
func (b *Backend) TellNews(send func([]connsync.Entry)) (now func() (more bool), stop func()) {
	b.mu.Lock()
	b.news = newNews(len(b.dp.Flows)/2, len(b.dp.Templates)/2)
	b.applySettings()
	b.mu.Unlock()
	var telling sync.Mutex // nothing older is told behind anything newer
	now = func() (more bool) {
		telling.Lock()
		defer telling.Unlock()
		entries := b.takeNews()
		if len(entries) > 0 {
			send(entries)
		}
		return len(entries) >= notedNews
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
// sweeper has found something, as far as the limits go.
func (b *Backend) takeNews() (entries []connsync.Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.news
	if n == nil {
		return nil
	}
	now := b.now()
	entries = make([]connsync.Entry, 0, n.latest+n.latest/4)
	defer func() { n.latest = len(entries) }()
	n.unprovenLeft = n.limits.unproven
	flow := func(set int) { entries = b.flowNews(entries, set, now) }
	template := func(set int) { entries = b.templateNews(entries, set, now) }
	most := n.limits.noted
	isEnough := func() bool { return len(entries) >= most }
	n.nextFlows = takeNoted(b.dp.FlowNews, len(b.dp.Flows)/8, n.nextFlows, isEnough, flow)
	if b.persistent {
		most = len(entries) + n.limits.noted
		n.nextTemplates = takeNoted(b.dp.TemplateNews, len(b.dp.Templates)/8, n.nextTemplates, isEnough, template)
	}
	most = len(entries) + n.limits.found
	n.foundTemplates.take(isEnough, template)
	n.foundFlows.take(isEnough, flow)
	return entries
}

// takeNoted visits the sets that are noted, from a word of notes on and round,
// until it is enough, and returns the word to go on with. Each note is taken
// away before the set is visited: a change behind the visit is another note.
func takeNoted(notes []uint64, sets, next int, isEnough func() bool, visit func(set int)) int {
	for range notes {
		if isEnough() {
			return next
		}
		i := next
		next = (next + 1) % len(notes)
		if load64(&notes[i]) == 0 {
			continue
		}
		for word := atomic.SwapUint64(&notes[i], 0); word != 0; {
			at := bits.TrailingZeros64(word) / 8
			word &^= 0xff << (8 * at)
			if set := 8*i + at; set < sets {
				visit(set)
			}
		}
	}
	return next
}

// findFlowNews notes the set of a flow if peers do not know the flow as it is.
func (b *Backend) findFlowNews(set, way int, v bpf.FlowValue) {
	if isToldOf(v) && b.isFlowNews(set*bpf.Ways+way, v) {
		b.news.foundFlows.add(set)
	}
}

// findTemplateNews notes the set of a template if peers do not know the template
// as it is.
func (b *Backend) findTemplateNews(set, way int, t bpf.TemplateValue) {
	if t.IsLive() && b.isTemplateNews(set*bpf.Ways+way, t) {
		b.news.foundTemplates.add(set)
	}
}

func (b *Backend) isFlowNews(place int, v bpf.FlowValue) bool {
	return b.news.flows.isNews(place, uint64(v), v.Seen(), uint32(b.dp.Settings.Timeout[v.State()]))
}

func (b *Backend) isTemplateNews(place int, t bpf.TemplateValue) bool {
	s := b.byIndex[b.dp.Reals[t.Real()].Service%bpf.Services]
	return s != nil && b.news.templates.isNews(place, uint64(t), uint16(t.Expires()), ticks(s.conf.Persistence.Timeout))
}

// flowNews appends what peers do not know yet of a set of flows. Of those that
// were never seen at work no more are told of than a flood of made-up ones may
// take, unless peers know them already.
func (b *Backend) flowNews(entries []connsync.Entry, set int, now uint64) []connsync.Entry {
	for w := range bpf.Ways {
		at := set*8 + w
		v := bpf.FlowValue(load64(&b.dp.Flows[at+4]))
		if !v.IsLive() {
			continue
		}
		place := set*4 + w
		if !b.isFlowNews(place, v) {
			continue
		}
		isFree := v.IsProven() || b.news.flows.isKnown(place, uint64(v))
		if !isFree && b.news.unprovenLeft == 0 {
			continue
		}
		k := bpf.FlowKey(load64(&b.dp.Flows[at]))
		if bpf.FlowValue(load64(&b.dp.Flows[at+4])).Nonce() != v.Nonce() {
			continue // the place has changed hands, and is noted
		}
		e, ok := b.flowEntry(k, v, now)
		if !ok {
			continue
		}
		entries = append(entries, e)
		b.news.flows.note(place, uint64(v), v.Seen())
		if !isFree {
			b.news.unprovenLeft--
		}
	}
	return entries
}

// templateNews appends what peers do not know yet of a set of templates.
func (b *Backend) templateNews(entries []connsync.Entry, set int, now uint64) []connsync.Entry {
	for w := range bpf.Ways {
		at := set*8 + w
		t := bpf.TemplateValue(load64(&b.dp.Templates[at+4]))
		if !t.IsLive() {
			continue
		}
		place := set*4 + w
		k := bpf.TemplateKey(load64(&b.dp.Templates[at]))
		if bpf.TemplateValue(load64(&b.dp.Templates[at+4])).Nonce() != t.Nonce() {
			continue
		}
		if !b.isTemplateNews(place, t) {
			continue
		}
		if e, ok := b.templateEntry(k, t, now); ok {
			entries = append(entries, e)
			b.news.templates.note(place, uint64(t), uint16(t.Expires()))
		}
	}
	return entries
}

// Walk implements [connsync.Table].
func (b *Backend) Walk(ctx context.Context, yield func([]connsync.Entry) error) error {
	flowSets, templateSets := len(b.dp.Flows)/8, len(b.dp.Templates)/8
	for set := 0; set < flowSets+templateSets; set += walkSets {
		entries := b.readPart(set, min(set+walkSets, flowSets+templateSets), flowSets)
		if len(entries) > 0 {
			if err := yield(entries); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// readPart reads sets first to last-1, those of templates counted on from the
// flows'.
func (b *Backend) readPart(first, last, flowSets int) []connsync.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	var entries []connsync.Entry
	add := func(e connsync.Entry, ok bool) {
		if ok {
			entries = append(entries, e)
		}
	}
	for set := first; set < last; set++ {
		if set >= flowSets {
			b.eachTemplateOf(set-flowSets, func(k bpf.TemplateKey, t bpf.TemplateValue) { add(b.templateEntry(k, t, now)) })
			continue
		}
		at := set * 8
		if emptySet(b.dp.Flows[at : at+8]) {
			continue
		}
		for w := range bpf.Ways {
			if v := bpf.FlowValue(load64(&b.dp.Flows[at+4+w])); v.IsLive() {
				add(b.flowEntry(bpf.FlowKey(load64(&b.dp.Flows[at+w])), v, now))
			}
		}
	}
	return entries
}

// eachTemplateOf visits the live templates of a set.
func (b *Backend) eachTemplateOf(set int, visit func(k bpf.TemplateKey, t bpf.TemplateValue)) {
	for w := range bpf.Ways {
		if t := bpf.TemplateValue(load64(&b.dp.Templates[set*8+4+w])); t.IsLive() {
			visit(bpf.TemplateKey(load64(&b.dp.Templates[set*8+w])), t)
		}
	}
}
