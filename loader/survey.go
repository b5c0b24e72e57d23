package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// Survey is what [Open] would do with the maps that a predecessor, running or
// not, has pinned.
type Survey struct {
	Adopted []string // as they are
	Moved   []string // copied into maps of another layout or size
	Lost    []string // what Open could not read, each with the reason
}

// SurveyPins looks at the pins of a directory and changes nothing. Of a
// directory without pins nothing is adopted and nothing is lost.
func SurveyPins(o Options) (s Survey, err error) {
	d := &Datapath{opts: o, pins: pinDir(o.PinDir), left: map[string]*leftMap{}, unpinned: map[string]bool{}}
	if _, err := os.Stat(o.PinDir); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if d.spec, err = sizedSpec(o); err != nil {
		return s, err
	}
	adopted, err := d.pinnedMaps()
	if err != nil {
		return s, err
	}
	defer closeMaps(adopted)
	defer d.closeLeft()
	for name := range adopted {
		s.Adopted = append(s.Adopted, name)
	}
	for name, l := range d.left {
		if why := l.whyLost(name); why != "" {
			s.Lost = append(s.Lost, fmt.Sprintf("%s: %s", name, why))
			continue
		}
		s.Moved = append(s.Moved, name)
	}
	if len(adopted)+len(d.left) > 0 && adopted["settings"] == nil && d.left["settings"] == nil {
		s = Survey{Lost: []string{"everything: the settings, which hold the seeds of the hashes, are not pinned"}}
	}
	slices.Sort(s.Adopted)
	slices.Sort(s.Moved)
	slices.Sort(s.Lost)
	return s, nil
}

// whyLost is why nothing of a map can be copied, "" if it can.
func (l *leftMap) whyLost(name string) string {
	switch {
	case piecedTableOf(name) != nil && l.old.MaxEntries() <= 2:
		return "" // its flows are in its other map
	case l.from == nil && l.to != nil && l.to.TypeName() != "" && l.old.Type() != ebpf.RingBuf:
		return "it has no BTF that says what is in it"
	case isTable6(name) && l.old.MaxEntries() <= 1:
		return "" // of a director that served IPv4 alone
	case name == "flows" || name == "templates" || isTable6(name):
		if _, from := tableTypes(l, strideOf(name)); from == nil {
			return "it is no table of sets of four"
		}
	}
	return ""
}

// sizedSpec is the packet path's object with tables of the size asked for.
func sizedSpec(o Options) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadSpec()
	if err != nil {
		return nil, err
	}
	o.Room.size(spec)
	flows, templates := sets(o.Flows), sets(o.Templates)
	piecedTables[0].size(spec, flows, o)
	spec.Maps["templates"].MaxEntries = templates
	spec.Maps["flow_news"].MaxEntries, spec.Maps["template_news"].MaxEntries = newsLines(flows), newsLines(templates)
	return spec, addMaps6(spec, o)
}

// newsLines is how many lines the notes of so many sets take.
func newsLines(sets uint32) uint32 { return (sets + bpf.NewsLineSets - 1) / bpf.NewsLineSets }
