package admin

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// The page is one document that asks for nothing but its own events: style,
// script and the first event are in it, and the policy that is sent with it
// allows nothing else.
var (
	//go:embed page/page.html
	pageHTML string
	//go:embed page/page.js
	pageScript string

	page       = strings.Replace(pageHTML, `<script src="/page.js"></script>`, "<script>"+pageScript+"</script>", 1)
	pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; script-src 'sha256-" + hashOf(pageScript) + "'"
)

// modelStart is where the first event goes. JSON has no "<" as Go writes it:
// nothing in the event can end its element.
const modelStart = `<script type="application/json" id="model">`

// servePage writes the page. Without an answer of the director it says so, and
// tries on.
func (s *streams) servePage(w http.ResponseWriter, r *http.Request) {
	first, _, err := s.next(r.Context())
	if err != nil {
		first = nil
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	before, after, _ := strings.Cut(page, modelStart)
	for _, part := range []string{before, modelStart, string(first), after} {
		if _, err := io.WriteString(w, part); err != nil {
			return
		}
	}
}

func hashOf(script string) string {
	sum := sha256.Sum256([]byte(script))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Bounds of the page's events.
const (
	eventPause   = lb.RatePeriod   // between two events: rates do not change sooner
	largePause   = 5 * eventPause  // if an event is large
	largeEvent   = 256 << 10       // bytes
	eventTimeout = 5 * time.Second // for a reader to take an event
	maxStreams   = 16
	maxServices  = 200 // on the page
	maxHistory   = 50
)

// event is what the page shows.
type event struct {
	Status  director.Status   `json:"status"`
	Rates   []lb.ServiceRates `json:"rates"`
	History []history.Event   `json:"history"`
	More    int               `json:"more,omitempty"` // services that are left out
}

// streams gives readers of the page their events. All of them get the same
// one: a director is asked once, however many pages are open.
type streams struct {
	director Director

	mu     sync.Mutex
	open   int
	made   time.Time
	latest []byte
}

// next is the latest event, made anew if it is old, and the pause until the
// next one.
func (s *streams) next(ctx context.Context) ([]byte, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := eventPause
	if len(s.latest) > largeEvent {
		pause = largePause
	}
	if s.latest != nil && time.Since(s.made) < pause/2 {
		return s.latest, pause, nil
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	st, err := s.director.Status(ctx)
	if err != nil {
		return nil, 0, err
	}
	l, err := s.director.List(ctx, director.Want{})
	if err != nil {
		return nil, 0, err
	}
	b, err := json.Marshal(newEvent(st, l.Rates, s.director.History(history.Filter{})))
	if err != nil {
		return nil, 0, err
	}
	s.latest, s.made = b, time.Now()
	return b, pause, nil
}

func newEvent(st director.Status, rates []lb.ServiceRates, events []history.Event) event {
	cleanStatus(&st)
	e := event{Status: st, Rates: rates, History: events[max(0, len(events)-maxHistory):]}
	if n := len(st.Services); n > maxServices {
		e.More = n - maxServices
		e.Status.Services, e.Rates = st.Services[:maxServices], rates[:min(len(rates), maxServices)]
	}
	return e
}

// cleanStatus bounds what may have come from outside.
func cleanStatus(st *director.Status) {
	clean := func(texts ...*string) {
		for _, t := range texts {
			*t = guard.Text(*t)
		}
	}
	clean(&st.Detail, &st.Fault, &st.Reload.Error)
	for i := range st.Warnings {
		clean(&st.Warnings[i].Subject, &st.Warnings[i].Text, &st.Warnings[i].Cure)
	}
	for i := range st.VRRP {
		clean(&st.VRRP[i].Why, &st.VRRP[i].Warning)
	}
	for i := range st.Services {
		s := &st.Services[i]
		clean(&s.Reason, &s.BackendReason)
		for r := range s.Reals {
			clean(&s.Reals[r].Reason)
		}
	}
}

// enter takes a place for a stream; it reports whether there is one.
func (s *streams) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= maxStreams {
		return false
	}
	s.open++
	return true
}

func (s *streams) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// ServeHTTP sends events (server-sent events, HTML 9.2) until the reader goes
// or does not take one in time.
func (s *streams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer s.leave()
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	for {
		b, pause, err := s.next(r.Context())
		if err != nil {
			return // the page says that nobody answers, and asks again
		}
		if control.SetWriteDeadline(time.Now().Add(eventTimeout)) != nil {
			return
		}
		for _, part := range [][]byte{[]byte("data: "), b, []byte("\n\n")} {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
		if control.Flush() != nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
			return
		}
	}
}
