"""Text whose states show a head's screen along which directions states lie (`screen.py`).

Prose, talk, questions, lists, mathematics, code, markup and other languages: what models are asked to write.
Another text makes a screen a little tighter or looser, and changes no result.
"""

PASSAGES = (
    """The river had been low all summer, and by the end of August the children could walk across it on
the stones below the mill. Old people said that it had happened twice before, in the year of the great
fire and in the year when the railway came. Nobody believed them until Anna found the iron ring in the
bank, with a date scratched into it. She took it home, cleaned it with vinegar, and laid it on the table
in front of her grandfather. "Where did you get that?" he asked, and his voice was so quiet that she put
down her spoon. In 1897 the company was founded by two brothers from the north; within ten years it had
400 workers, a school and a hospital. Its second director, an engineer, is best known for the bridge that
he built over the valley.
""",
    """User: What is the capital of Australia, and why is it not Sydney?
Assistant: The capital of Australia is Canberra. When the colonies became one country in 1901, Sydney and
Melbourne both wanted to be the seat of the government, so a new city was planned between them.
User: Thanks! Can you give me three tips for sleeping better?
Assistant: Of course. Here are three tips:

1. **Keep a schedule.** Go to bed and get up at the same time every day.
2. **Avoid screens.** Put your phone away an hour before you sleep.
3. **Make the room dark and cool.** About 18 degrees is best for most people.

Would you like to know more about one of them?
""",
    """import json
from pathlib import Path


class Inventory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.items: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"count must be positive, got {count}")
        self.items[name] = self.items.get(name, 0) + count

    def save(self) -> None:
        self.path.write_text(json.dumps(self.items, indent=2))


for (let i = 0; i < rows.length; i++) {
  if (rows[i].id === undefined) { continue; }
  total += rows[i].price * rows[i].quantity;  // in cents
}
SELECT name, COUNT(*) FROM orders WHERE year >= 2020 GROUP BY name ORDER BY 2 DESC;
{"name": "lamp", "tags": ["light", "home"], "price": 19.5, "in_stock": true}
<ul class="menu"><li><a href="/about">About us</a></li></ul>
""",
    """Let x be the number of apples. Then 3x + 4 = 19, so 3x = 15 and x = 5. The area of a circle of
radius r is pi r^2; for r = 2 cm it is about 12.57 cm^2. Water boils at 100 degrees Celsius because its
vapour pressure then equals that of the air. In summary, plants turn light, water and carbon dioxide into
sugar and oxygen. The patient was given 20 mg twice a day; after two weeks there was a significant
improvement (p < 0.05).
Der Zug nach Hamburg hat heute leider zwanzig Minuten Verspätung. Elle a acheté du pain, du fromage et une
bouteille de vin. El gato duerme en la silla mientras llueve. 今天天气很好，我们去公园吧。
Subject: Meeting on Friday

Dear Ms Carter, thank you for your message. I am happy to confirm our meeting on Friday at 10 a.m. in room
204.
Kind regards, Tom
""",
)
