package admin

import "github.com/lvx-lb/lvx/pkg/director"

// The metrics of BFD sessions of the file.
var (
	bfdSessionUp = gauge("bfd_session_up", "1 while the BFD session is up.", "session", "neighbour")
	bfdDowns     = counter("bfd_session_downs_total", "Times that the BFD session was up and then not.", "session", "neighbour")
	bfdDetection = gauge("bfd_session_detection_seconds", "How long the neighbour may be silent; 0: it has not been heard.", "session", "neighbour")
)

func (m scrape) bfd(st director.Status) {
	for _, b := range st.BFD {
		labels := []string{b.Session, b.Neighbour.String()}
		m.set(bfdSessionUp, flag(b.IsUp), labels...)
		m.set(bfdDowns, float64(b.Downs), labels...)
		m.set(bfdDetection, b.Detection.Seconds(), labels...)
	}
}
