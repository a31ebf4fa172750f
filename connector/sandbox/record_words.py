"""Words that generated records are made of: what recruiters really type, in many scripts."""

from __future__ import annotations

FIRST_NAMES = (
    "Avery", "José", "Zoë", "Nguyễn", "李", "さくら", "محمد", "Σοφία", "Дмитро", "O'Brien",
    "Anne-Marie", "Łukasz", "अनिका", "한별", "שרה", "Jo\u0308rg", "Renée", "Mary  Jane", "D’Arcy",
    "👩‍💻 Ada",
)  # fmt: skip
LAST_NAMES = (
    "Coleman", "García Márquez", "Müller", "Trần", "小明", "田中", "العربي", "Παπαδοπούλου",
    "Шевченко", "McDonald", "van der Berg", "Żółć", "शर्मा", "김", "כהן", "N\u0303andu\u0301",
    'Smith "Smitty"', "Null", "Ortiz, Jr.", "🦄",
)  # fmt: skip
STAGES = (
    ("stg_new", "New"), ("stg_contacted", "Contacted"), ("stg_interview", "Interview"),
    ("stg_offer", "Offer"), ("stg_licensing", "Licensing – Exam"),
    ("stg_hired", "Hired"), ("stg_lost", "Not a fit"),
)  # fmt: skip
PIPELINES = {"pipe_agents": "stg_new", "pipe_licensing": "stg_licensing"}
LABELS = ("Inbound", "Referral", "Ünïcode", "hot;lead", "a,b", "VIP 🌟", "2025", "true")
TITLES = ("Agent", "Senior Agent", "Broker / Owner", "Chef d’équipe", "", "=SUM(A1)", "営業")
COMPANIES = ("Acme & Sons", "Δέλτα Α.Ε.", "北京 GmbH", "O\\Reilly", "<none>", "1/2 Realty")
USERS = tuple(f"{number:032x}" for number in range(0xA7C1E9D34B2F4D8A, 0xA7C1E9D34B2F4D8A + 9))
NOTE_BODIES = (
    "<p>Spoke with prospect and confirmed interest in next steps.</p>",
    "<p>Left a <b>voicemail</b> &amp; sent an e-mail.<br/>Try again at 5&nbsp;pm</p>",
    '<ul><li>License: in progress</li><li><a href="https://example.com/?a=1&amp;b=2">CV</a></li></ul>',
    "<p>次の面接は来週です。🎉</p>",
    '<p dir="rtl">تم الاتصال</p>',
    "plain text\nwith two lines\tand a tab",
    "",
    "<p>He said: “I’ll think about it” — <i>maybe</i> \\ 100%</p>",
)
TASKS = (
    "Send follow-up email with calendar options", "Call back ☎", "Schicke Vertrag", "確認する",
    "Check references; ask about 'notice'", "",
)  # fmt: skip
MEETING_TYPES = ("virtual", "in_person", "phone")
TIME_ZONES = (
    "America/New_York", "Europe/Berlin", "Asia/Tokyo", "America/Argentina/Buenos_Aires", "UTC",
    "Asia/Kolkata",
)  # fmt: skip
LOCATIONS = (
    "Zoom", "Café Zürich", "", None, "1 Main St, Suite #5", "https://meet.example.com/abc?x=1",
)  # fmt: skip
